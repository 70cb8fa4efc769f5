"""A conversation with a model: its messages, and the actions of the chat commands on them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgellm.chat.truncation import largest_prompt, without_oldest
from edgellm.commands.loading import REPEATS, Repetition, chat_answer, statistics, stoppable, with_temperature
from edgellm.commands.options import SAMPLING
from edgellm.commands.terminal import keys_held_back
from edgellm.commands.thoughts import Thoughts
from edgellm.engine.sampling_params import DEFAULTS
from edgellm.errors import (
    ContextOverflowError,
    EdgeLLMError,
    FileError,
    FormatError,
    UsageError,
    harmless,
    size_text,
)
from edgellm.system.files import Folder

if TYPE_CHECKING:
    from edgellm.engine.model import Model
    from edgellm.engine.options import GenerateOptions
    from edgellm.engine.request import Stats

_FORMAT = "edgellm-chat"
_LARGEST_FILE = 8_000_000


class Reply(Protocol):
    """An answer in progress: an engine's `Generation`, or a server's stream."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stats(self) -> Stats | None: ...
    def cancel(self) -> None: ...
    def __iter__(self) -> Iterator[str]: ...


class ChatSession(Protocol):
    """Partner of a conversation: a `Model`, or a model behind a server."""

    @property
    def name(self) -> str: ...
    @property
    def n_ctx(self) -> int | None: ...
    def chat(
        self, messages: Sequence[Mapping[str, Any]], options: GenerateOptions, *, think: str | None = None
    ) -> Reply: ...


def _no_confirmation(fact: str, question: str) -> bool:
    raise UsageError(f"{fact}; give another name")


class Conversation:
    """Messages with a model. write: called with the pieces of answers as they come, end: with each
    answer that is complete; None: its line is ended.

    opened: makes a model of this name, with its instructions, to go on with. thoughts: of its answers.
    confirm: asks the user a question after a fact.
    """

    overflow_hint = "/undo or /clear"

    def __init__(
        self,
        model: ChatSession,
        options: GenerateOptions,
        system: str | None,
        write: Callable[[str], None],
        *,
        end: Callable[[str], None] | None = None,
        opened: Callable[[str | None], tuple[ChatSession, str | None]] | None = None,
        thoughts: Thoughts | None = None,
    ) -> None:
        self.model = model
        self.thoughts = thoughts or Thoughts()
        self.options = options
        self.system = system
        self.messages: list[dict[str, str]] = []
        self.n_left_out = 0
        self.attached: list[str] = []
        self.last: Reply | None = None
        self.think: str | None = None
        self.verbose = False
        self.confirm: Callable[[str, str], bool] = _no_confirmation
        self._write = write
        self._end = end
        self._opened = opened

    def change_model(self, name: str) -> None:
        """Go on with another model; if it cannot be had, the one before stays."""
        if self._opened is None:
            raise UsageError("The model cannot be changed here")
        self.model, system = self._opened(name)
        self.system = system if self.system is None else self.system
        self.n_left_out = 0
        self.last = None

    def described(self) -> list[str]:
        """Lines about the model and the conversation."""
        context = "" if self.model.n_ctx is None else f", context {self.model.n_ctx} tokens"
        return [
            f"model: {self.model.name}{context}",
            f"instructions: {self.system or 'none'}",
            f"messages: {len(self.messages)}",
        ]

    def ask(self, text: str) -> Reply:
        """Send a message, with attached texts before it, and stream the answer; a failure changes nothing."""
        parts = [*self.attached, text]
        self.messages.append({"role": "user", "content": "\n\n".join(parts)})
        try:
            generation = self._answer()
        except BaseException:
            self.messages.pop()
            raise
        self.attached = []
        return generation

    def regenerate(self) -> Reply:
        """Answer the last message again."""
        if not self.messages:
            raise UsageError("There is no answer to make again")
        answer = self.messages.pop() if self.messages[-1]["role"] == "assistant" else None
        try:
            return self._answer()
        except BaseException:
            if answer is not None:
                self.messages.append(answer)
            raise

    def undo(self) -> str:
        """Remove the last message and its answer; returns the message."""
        if not self.messages:
            raise UsageError("There is nothing to take back")
        while self.messages:
            message = self.messages.pop()
            self.n_left_out = min(self.n_left_out, len(self.messages))
            if message["role"] == "user":
                return message["content"]
        return ""

    def clear(self) -> None:
        """Remove all messages; the system prompt stays."""
        self.messages = []
        self.n_left_out = 0
        self.attached = []

    def attach(self, path: Path) -> int:
        """Put a text file's content before the next message; returns its characters."""
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise FileError(f"{path} has more than {size_text(_LARGEST_FILE)}; give a part of it")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise FormatError(f"{path}: not a text in UTF-8") from None
        self._check_length(path, text)
        self.attached.append(text)
        return len(text)

    def _check_length(self, path: Path, text: str) -> None:
        """Raise UsageError for an attached text that leaves no room; a server says so with the message."""

    def n_tokens(self) -> int:
        """Tokens of the conversation when it was last answered."""
        if self.last is None or self.last.stats is None:
            raise UsageError("Tokens are counted with an answer, and there is none yet")
        return self.last.stats.n_prompt + self.last.stats.n_generated

    def known_options(self) -> dict[str, Any]:
        """Options by name; None if the model chooses and its choice is not known here."""
        names = (*DEFAULTS, "seed", "max_tokens", "stop")
        return {name: getattr(self.options, name) for name in names} | {"think": self.think}

    def cost(self, reply: Reply) -> str:
        """One line about a finished answer."""
        return statistics(reply, self.model.n_ctx)

    def set_option(self, name: str, text: str) -> None:
        """Change a sampling option or `think`; UsageError for an unknown name, or a value out of range."""
        if name.lstrip("-") == "think":
            from edgellm.chat.thinking import LEVELS

            if text not in LEVELS:
                raise UsageError(f"think is {text!r}, expected one of {', '.join(LEVELS)}")
            self.set_think(text)
            return
        options = {option.name: option for option in SAMPLING}
        spelled = {flag.lstrip("-").replace("-", "_"): o.name for o in SAMPLING for flag in o.flags}
        key = spelled.get(name.lstrip("-").replace("-", "_"), name)
        if key not in options or key == "logit_bias":
            known = ", ".join(option for option in options if option != "logit_bias")
            raise UsageError(f"{name!r} cannot be set; what can be set is {known}, think")
        try:
            value = options[key].kind.parse(text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if options[key].repeated:
            value = (value,)
        elif key in ("seed", "max_tokens") and value < 0:
            value = None
        self.options = replace(self.options, **{key: value})

    def set_think(self, level: str) -> None:
        """Have the model think at another level from the next message on."""
        self.think = level

    def save(self, path: Path) -> None:
        """Write the conversation as JSON; the file is written whole or not at all."""
        content = {
            "format": _FORMAT,
            "version": 1,
            "model": self.model.name,
            "system": self.system,
            "messages": self.messages,
        }
        # UTF-8 has no lone surrogates, which a terminal may send: each is written as "?".
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        try:
            with Folder(path.parent) as folder:
                folder.write(path.name, text.encode("utf-8", "replace"), mode=0o666)
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from None

    def load(self, path: Path) -> None:
        """Replace the conversation by a saved one; FormatError if the file holds none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise FormatError(f"{path}: not JSON, expected a conversation that /save wrote") from None
        self.system, self.messages = _checked(path, content)
        self.n_left_out = 0

    def _answer(self) -> Reply:
        begun = False
        while True:
            try:
                with keys_held_back():
                    generation = self._begin()
                    repetition = Repetition()
                    with stoppable(generation):
                        for piece in generation:
                            self._write(piece)
                            begun = True
                            if repetition.push(piece):
                                generation.cancel()
                break
            except EdgeLLMError as error:
                if begun:
                    self._close_answer("")
                if not isinstance(error, ContextOverflowError):
                    raise
                if begun or not self._leave_out():
                    raise ContextOverflowError(f"{error} ({self.overflow_hint})") from None
        self._close_answer(generation.text)
        if repetition.found:
            say(f"edgellm: {REPEATS}")
        self.last = generation
        self.messages.append({"role": "assistant", "content": generation.text})
        return generation

    def _close_answer(self, text: str) -> None:
        if self._end is not None:
            self._end(text)
        elif not text.endswith("\n"):
            self._write("\n")

    def _leave_out(self) -> bool:
        """Leave the oldest exchanges out of what the model gets; False if there is only one."""
        fewer = without_oldest(self.messages[self.n_left_out :])
        if fewer is None:
            return False
        self.n_left_out = len(self.messages) - len(fewer)
        say(
            f"(The context is full: the model no longer gets the oldest {self.n_left_out} messages. "
            "/clear begins anew.)",
            dim=True,
        )
        return True

    def _begin(self) -> Reply:
        return self.model.chat(self._prompt(), self.options, think=self.think)

    def _prompt(self) -> list[dict[str, str]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.messages[self.n_left_out :]]


class LocalConversation(Conversation):
    """A conversation with a model that is loaded in this process."""

    overflow_hint = "/undo, /clear, or start again with a larger -c"

    def __init__(
        self,
        model: Model,
        options: GenerateOptions,
        system: str | None,
        write: Callable[[str], None],
        *,
        end: Callable[[str], None] | None = None,
        think: str | None = None,
        thoughts: Thoughts | None = None,
        opened: Callable[[str | None], tuple[Model, str | None]] | None = None,
    ) -> None:
        super().__init__(model, options, system, write, end=end, opened=opened, thoughts=thoughts)
        self._model = model
        if think is not None:
            self.set_think(think)

    def set_think(self, level: str) -> None:
        """As for any model; UsageError if the template cannot honour the level."""
        self._model.think_variables(level)
        super().set_think(level)

    def change_model(self, name: str) -> None:
        """Go on with another model; if it cannot be loaded, the one before stays."""
        before = self._model
        super().change_model(name)
        self._model = cast("Model", self.model)
        before.close()

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def described(self) -> list[str]:
        """Lines about the model and the conversation."""
        model = self._model
        thinking = ", ".join(model.template.thinking())
        return [
            *super().described(),
            f"file: {model.path}",
            f"family: {model.program.family}, memory {size_text(sum(model.memory.values()))}, "
            f"{model.threads} threads",
            f"levels of thinking: {thinking}",
        ]

    def _check_length(self, path: Path, text: str) -> None:
        n_tokens = len(self._model.tokenize(text))
        most = largest_prompt(self._model.n_ctx, self.options.max_tokens)
        if n_tokens > most:
            raise UsageError(
                f"{path} has {n_tokens} tokens, and the context has room for {most} beside an answer; "
                "give a part of it, or start again with a larger -c"
            )

    def _begin(self) -> Reply:
        most = largest_prompt(self._model.n_ctx, self.options.max_tokens)
        if len(self._model.template.encode(self._prompt())) > most and self._leave_out():
            return self._begin()
        return chat_answer(self._model, self._prompt(), self.options, self.think, self.thoughts)

    def n_tokens(self) -> int:
        """Tokens of the conversation so far, in the model's template."""
        if not self.messages:
            return 0
        return len(self._model.template.encode(self._prompt(), add_generation_prompt=False))

    def known_options(self) -> dict[str, Any]:
        """Options by name, with the model's own choices."""
        params = self.options.resolve(self._model.sampling_defaults)
        return super().known_options() | {name: getattr(params, name) for name in DEFAULTS}

    def cost(self, reply: Reply) -> str:
        """One line about a finished answer, with the temperature of this machine."""
        return with_temperature(super().cost(reply))


def _checked(path: Path, content: Any) -> tuple[str | None, list[dict[str, str]]]:
    from edgellm.chat.messages import normalize_messages

    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(f"{path}: not a conversation that /save wrote")
    if content.get("version") != 1:
        raise FormatError(f"{path}: has version {content.get('version')!r}, expected 1; use a newer edgellm")
    system, messages = content.get("system"), content.get("messages")
    if not (system is None or isinstance(system, str)) or not isinstance(messages, list):
        raise FormatError(f"{path}: system or messages have the wrong type, expected a text and a list")
    try:
        plain = normalize_messages(messages) if messages else []
    except EdgeLLMError as error:
        raise FormatError(f"{path}: {error}") from None
    return system, [{"role": m["role"], "content": m["content"]} for m in plain]


def say(text: str, *, dim: bool = False) -> None:
    """Print a message for the user on standard error; on a terminal wrapped at words."""
    text = harmless(text)
    if sys.stderr.isatty():
        import shutil
        import textwrap

        width = max(20, shutil.get_terminal_size().columns - 1)
        wrapped = (textwrap.wrap(line, width, drop_whitespace=True) or [""] for line in text.split("\n"))
        text = "\n".join(line for lines in wrapped for line in lines)
        if dim and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            text = f"\x1b[2m{text}\x1b[0m"
    print(text, file=sys.stderr, flush=True)
