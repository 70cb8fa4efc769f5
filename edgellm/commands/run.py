"""`edgellm run`: one prompt, one answer; only the answer on standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands.loading import (
    REPEATS,
    Repetition,
    chat_answer,
    find_model,
    generate_options,
    load_model,
    note_of_budget,
    note_of_end,
    statistics,
    stoppable,
    system_prompt,
    with_temperature,
    write_answer,
)
from edgellm.commands.options import (
    DRAFTING,
    LOADING,
    OFFLINE,
    PACE,
    SAMPLING,
    SWITCH,
    SYSTEM,
    TEXT,
    THINKING,
    Command,
    Option,
    Positional,
)
from edgellm.commands.settings import Settings
from edgellm.commands.thoughts import shown_thoughts
from edgellm.errors import UsageError
from edgellm.store.resolve import is_model_name

if TYPE_CHECKING:
    from edgellm.commands.conversation import Reply
    from edgellm.engine.options import GenerateOptions


def run(settings: Settings) -> int:
    """Print the answer to the prompt."""
    name, prompt = split_arguments(settings)
    if not prompt:
        return _chat(name, settings)
    if settings["raw"] and settings.origins["think"].startswith("flag"):
        raise UsageError("--think is for the chat template, and --raw uses none; leave one of them out")
    path = find_model(name, settings)
    model = load_model(path, settings, for_chat=not settings["raw"])
    try:
        options = constrained(generate_options(settings), settings)
        if settings["raw"]:
            generation: Reply = model.generate(prompt, options)
        else:
            system = system_prompt(path, settings)
            messages = [] if system is None else [{"role": "system", "content": system}]
            messages.append({"role": "user", "content": prompt})
            if note := note_of_budget(model, options):
                print(f"edgellm: {note}", file=sys.stderr)
            thoughts = shown_thoughts(hide=settings["hide_thinking"], fold=False)
            generation = chat_answer(model, messages, options, settings["think"], thoughts)
        repetition = Repetition()
        free = options.constraint is None and not settings["raw"]
        with stoppable(generation) as signals:
            for piece in generation:
                write_answer(piece)
                if free and repetition.push(piece):
                    generation.cancel()
        if not generation.text.endswith("\n"):
            write_answer("\n")
        note = REPEATS if repetition.found else note_of_end(generation, model.n_ctx)
        if note:
            print(f"edgellm: {note}", file=sys.stderr)
        if signals:
            return 130
        if settings["stats"]:
            print(with_temperature(statistics(generation, model.n_ctx)), file=sys.stderr)
    finally:
        model.close()
    return 0


def constrained(options: GenerateOptions, settings: Settings) -> GenerateOptions:
    """Options with the schema or grammar that the answer must follow."""
    from dataclasses import replace

    schema, grammar = settings["schema"], settings["grammar"]
    return replace(
        options,
        schema=schema if schema is None or schema.lstrip().startswith("{") else _content("schema", schema),
        grammar=None if grammar is None else _content("grammar", grammar),
        regex=settings["regex"],
        json=settings["json_object"],
    )


def _content(option: str, name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"--{option} {name}: not a text file") from None
    except OSError as error:
        raise UsageError(f"--{option} {name}: cannot be read: {error.strerror}") from None


def split_arguments(settings: Settings) -> tuple[str | None, str]:
    """The model's name (None: the default one) and the prompt, from arguments, `-p` and standard input.

    Without -m the first argument is the model, unless it is the only one and can only be a prompt. The prompt
    is empty if none is given and a person is at the terminal, to talk with.
    """
    name: str | None = settings["model"]
    words = list(settings["args"])
    if words and name is None and (len(words) > 1 or is_model_name(words[0]) or not _is_prose(words[0])):
        name = words.pop(0)
    parts = [" ".join(words)] if words else []
    if settings["prompt"] is not None:
        parts.append(settings["prompt"])
    if sys.stdin is not None and not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace")
        if piped.strip():
            parts.append(piped if settings["raw"] else piped.strip())
    talks = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and not settings["raw"]
    if not parts and not talks:
        raise UsageError(
            'There is no prompt: give it as an argument, `edgellm run MODEL "..."`, or on standard input'
        )
    return name, "\n\n".join(parts)


def _chat(name: str | None, settings: Settings) -> int:
    """Talk instead of answering once: there is no prompt, and a person at a terminal."""
    from edgellm.commands.chat import COMMAND as CHAT

    own = {option.name: settings.values.get(option.name, option.default) for option in CHAT.options}
    origins = {name: settings.origins.get(name, "default") for name in own}
    return CHAT.run(Settings("chat", {**own, "words": [] if name is None else [name]}, origins))


def _is_prose(text: str) -> bool:
    return any(char.isspace() for char in text.strip())


COMMAND = Command(
    summary="Answer one prompt.",
    run=run,
    description="Answers one prompt and exits. Standard output carries only the answer; what comes on\n"
    "standard input becomes part of the prompt. With no model named, the default one is used, and\n"
    "fetched once.",
    positionals=(
        Positional("args", "[MODEL] PROMPT: a single argument with a space in it is a prompt", "*"),
    ),
    options=(
        *LOADING,
        *PACE,
        *DRAFTING,
        Option("prompt", ("-p", "--prompt"), "the prompt", TEXT, "TEXT"),
        SYSTEM,
        Option(
            "raw",
            ("--raw",),
            "continue the prompt as it is, without the chat template",
            SWITCH,
            default=False,
        ),
        *SAMPLING,
        *THINKING,
        Option(
            "schema",
            ("--schema",),
            "the answer is JSON that is valid against this JSON schema, a file or its text",
            TEXT,
            "FILE|JSON",
        ),
        Option("json_object", ("--json-object",), "the answer is a JSON object", SWITCH, default=False),
        Option("regex", ("--regex",), "the answer matches this regular expression", TEXT, "REGEX"),
        Option("grammar", ("--grammar",), "the answer follows this grammar, in Lark or GBNF", TEXT, "FILE"),
        Option(
            "stats", ("--stats",), "print tokens, speed and context to standard error", SWITCH, default=False
        ),
        OFFLINE,
    ),
    examples=(
        ('edgellm run "Why is the sky blue?"', "the default model answers"),
        ('edgellm run model.gguf "Why?" --temp 0', "the likeliest answer, always the same"),
        ("edgellm run model.gguf", "no prompt, on a terminal: talk with the model"),
        ('cat notes.txt | edgellm run -p "Summarize:"', "standard input follows the prompt"),
        ('edgellm run -m model.gguf --raw "Once upon"', "continue a text"),
        ('edgellm run "Name a city" --schema city.json', "an answer that fits a JSON schema"),
    ),
)
