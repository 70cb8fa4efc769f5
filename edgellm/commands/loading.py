"""From settings to a loaded model and generation options, for commands that run a model."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.commands.options import bias_table
from edgellm.commands.progress import DownloadProgress
from edgellm.commands.settings import Settings
from edgellm.errors import harmless, one_line
from edgellm.store.resolve import resolve

if TYPE_CHECKING:
    from types import FrameType

    from edgellm.commands.conversation import Reply
    from edgellm.commands.thoughts import Thoughts
    from edgellm.engine.adapters import AdapterFile
    from edgellm.engine.load_options import LoadOptions
    from edgellm.engine.model import Model
    from edgellm.engine.options import GenerateOptions
    from edgellm.store.hub_catalog import HubModel


def find_model(name: str | None, settings: Settings) -> Path:
    """File of the named model (None: the default one), fetched with a progress display if need be."""
    with DownloadProgress(name or "the default model") as report:
        return resolve(name, offline=settings["offline"], report=report, say=_say, quick=_quick)


def _quick(model: HubModel) -> bool:
    """True if a known model's answers are predicted to be fast enough to be read as they come."""
    from edgellm.commands.fit import answers_fast

    return answers_fast(model)


def _say(sentence: str) -> None:
    print(f"edgellm: {sentence}", file=sys.stderr)


def system_prompt(path: Path, settings: Settings) -> str | None:
    """The given system prompt, or else the catalog's for this model.

    None leaves it to the chat template; an empty text replaces the template's own.
    """
    from edgellm.store.catalog import known_at

    if settings["system"] is not None:
        return str(settings["system"])
    known = known_at(path)
    return known.system if known else None


def load_options(settings: Settings, **more: Any) -> LoadOptions:
    """Settings of loading a model; `more` are LoadOptions of the command's own."""
    from edgellm.engine.load_options import LoadOptions

    shared = (
        "threads",
        "context",
        "kv_type",
        "backend",
        "isa",
        "max_memory",
        "draft_max",
        "max_temp",
        "on_battery",
    )
    known = {name: settings[name] for name in shared if name in settings.origins}
    if "draft" in settings.origins and settings["draft"] is not None:
        known["draft"] = find_model(settings["draft"], settings)
    return LoadOptions(**(known | more))


def adapters(settings: Settings) -> tuple[AdapterFile, ...]:
    """Adapters of the `--lora` options."""
    from edgellm.engine.adapters import parse_adapter

    return tuple(map(parse_adapter, settings["lora"] or ()))


def load_model(path: Path, settings: Settings, *, for_chat: bool = True, with_lora: bool = True) -> Model:
    """Load a model with the settings' threads, context and so on; its template is compiled `for_chat`.

    with_lora: with the adapters of the settings.
    """
    from edgellm.commands.profiles import with_profile
    from edgellm.engine.loading import Loading

    options = load_options(settings, batch=settings["batch"], lora=adapters(settings) if with_lora else ())
    options, tuned = with_profile(options, path, settings.origins)
    if tuned:
        _say(tuned)
    # The engine packs weights on threads of its own while this one imports the rest, Jinja included, and
    # compiles the template.
    loading = Loading(path, options)
    from edgellm.engine.model import Model

    model = Model(loading, _compile_template if for_chat else None)
    for warning in (*model.tokenizer.warnings, *model.notes):
        print(f"edgellm: {path.name}: {one_line(warning)}", file=sys.stderr)
    return model


def _compile_template(model: Model) -> None:
    model.template.warm()
    if model.template.may_think:
        model.template.thoughts()


def generate_options(settings: Settings) -> GenerateOptions:
    """Sampling options; those not set stay None and are the model's choice."""
    from edgellm.engine.options import GenerateOptions
    from edgellm.engine.sampling_params import DEFAULTS

    def unless_negative(name: str) -> int | None:
        value: int | None = settings[name]
        return None if value is None or value < 0 else value

    return GenerateOptions(
        max_tokens=unless_negative("max_tokens"),
        seed=unless_negative("seed"),
        think_budget=settings["think_budget"],
        stop=tuple(settings["stop"] or ()),
        logit_bias=bias_table(settings["logit_bias"]),
        **{name: settings[name] for name in DEFAULTS},
    )


def chat_answer(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    options: GenerateOptions,
    think: str | None,
    thoughts: Thoughts,
) -> Reply:
    """Start an answer; its text is the words alone, without its thoughts.

    A schema holds for the words. An answer that follows a regular expression or a grammar is one text.
    """
    constraint = options.constraint
    if (constraint is None or constraint.kind == "schema") and model.template.may_think:
        syntax = model.template.thoughts()
        if syntax.thinks:
            from edgellm.commands.thinking import ThinkingReply

            return ThinkingReply(model, messages, options, think, thoughts)
    thoughts.begin()
    return model.chat(messages, options, think=think)


def note_of_budget(model: Model, options: GenerateOptions) -> str:
    """A sentence for the user if the model has no thoughts that the given budget could end, else nothing."""
    if options.think_budget is None or model.template.thoughts().limits_thoughts:
        return ""
    return f"{model.name}: --think-budget has no effect, because the chat template writes no thoughts"


@contextlib.contextmanager
def stoppable(reply: Reply) -> Iterator[list[int]]:
    """Let Ctrl+C end the answer instead of the program; the yielded list is not empty once it did."""
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        reply.cancel()

    try:
        previous = signal.signal(signal.SIGINT, stop)
    except ValueError:
        # Not the main thread: the signal belongs to the program that runs there.
        yield signals
        return
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, previous)


# An answer whose last characters are the same text at least eight times over goes on like that for ever.
REPEATED_CHARS, REPEATED_TIMES = 1200, 8
REPEATS = "The answer repeated itself and was ended; --repeat-penalty 1.1 or a larger model helps."


class Repetition:
    """Watches an answer for text that is said again and again."""

    def __init__(self) -> None:
        self._tail = ""
        self.found = False

    def push(self, piece: str) -> bool:
        """More of the answer; True once it repeats itself."""
        tail = self._tail = (self._tail + piece)[-REPEATED_CHARS:]
        if len(tail) == REPEATED_CHARS:
            n_same = 32  # an earlier place of the last characters gives the period
            period = len(tail) - n_same - tail.rfind(tail[-n_same:], 0, -1)
            self.found = period <= len(tail) // REPEATED_TIMES and tail[period:] == tail[:-period]
        return self.found


def write_answer(text: str) -> None:
    """Write a piece of an answer to standard output, at once and unchanged unless that is a terminal."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def statistics(reply: Reply, n_ctx: int | None) -> str:
    """One line about an answer: `42 tokens, 9.8 a second, the first after 1.10 s, context 15 % full`."""
    stats = reply.stats
    if stats is None:
        return ""
    parts = ["1 token" if stats.n_generated == 1 else f"{stats.n_generated} tokens"]
    if stats.generate_tok_s:
        parts.append(f"{stats.generate_tok_s:.1f} a second")
    if stats.n_generated:
        parts.append(f"the first after {stats.first_token_s:.2f} s")
    if stats.n_drafted:
        parts.append(f"{stats.n_accepted} of {stats.n_drafted} guesses right")
    if n_ctx is not None:
        parts.append(f"context {100 * (stats.n_prompt + stats.n_generated) / n_ctx:.0f} % full")
    return ", ".join(parts)


def with_temperature(line: str) -> str:
    """The line and the temperature of this machine, if it can be read: `42 tokens, ..., 71 °C`."""
    from edgellm.device.sensors import temperature_c

    temperature = temperature_c()
    return line if temperature is None or not line else f"{line}, {temperature:.0f} °C"


def note_of_end(reply: Reply, n_ctx: int | None) -> str:
    """A sentence for the user if the answer did not end by itself, else nothing."""
    if reply.finish_reason == "context":
        return (
            f"The answer ends here because the context of {n_ctx} tokens is full; "
            "give a larger one with -c, up to the model's trained context."
        )
    return ""
