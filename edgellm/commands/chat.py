"""`edgellm chat`: talk with a model, on a terminal or with lines from a pipe."""

from __future__ import annotations

from pathlib import Path

from edgellm.commands.chat_commands import COMMANDS, HELP, finish, obey
from edgellm.commands.conversation import Conversation, LocalConversation, say
from edgellm.commands.loading import (
    find_model,
    generate_options,
    load_model,
    note_of_budget,
    system_prompt,
)
from edgellm.commands.options import (
    DRAFTING,
    LOADING,
    MODEL,
    OFFLINE,
    PACE,
    SAMPLING,
    SYSTEM,
    TEXT,
    THINKING,
    Command,
    Option,
    Positional,
)
from edgellm.commands.settings import Settings
from edgellm.commands.terminal import ReadLine, answer_writer, line_reader, on_terminal, shown_loading
from edgellm.commands.thoughts import shown_thoughts
from edgellm.engine.model import Model
from edgellm.errors import EdgeLLMError, UsageError, size_text
from edgellm.store.resolve import is_model_name


def run(settings: Settings) -> int:
    """Talk until the user leaves."""
    name, question = _arguments(settings)
    if settings["url"]:
        return _run_remote(settings, name, question)

    def opened(name: str | None) -> tuple[Model, str | None]:
        """A loaded model, and the instructions that it gets."""
        path = find_model(name, settings)
        with shown_loading(path):
            model = load_model(path, settings)
        return model, system_prompt(path, settings)

    model, system = opened(name)
    if name is None:
        _hint_of_larger(Path(model.path))
    options = generate_options(settings)
    write, end = answer_writer()
    conversation = LocalConversation(
        model,
        options,
        system,
        write,
        end=end,
        think=settings["think"],
        thoughts=shown_thoughts(hide=settings["hide_thinking"], fold=on_terminal()),
        opened=opened,
    )
    try:
        if note := note_of_budget(model, options):
            say(f"edgellm: {note}")
        _talk(conversation, f"{model.name}, context {model.n_ctx} tokens", question)
    finally:
        conversation.close()
    return 0


def _hint_of_larger(path: Path) -> None:
    """Say which model suits this machine better than the smallest one, if that is the default."""
    from edgellm.device.memory import total_memory
    from edgellm.store.catalog import default_model, stored_path
    from edgellm.store.hub_catalog import best_for

    better = best_for(total_memory())
    if path == stored_path(default_model()) and better is not None and on_terminal():
        say(
            "No model is named, and the smallest one is on disk. For good answers this machine can run "
            f"{better.name} (about {size_text(better.size)} to fetch): edgellm chat {better.name}",
            dim=True,
        )


def _arguments(settings: Settings) -> tuple[str | None, str]:
    """The model's name (None: the default one), and a first question."""
    name, words = settings["model"], list(settings["words"])
    if name is None and words and (is_model_name(words[0]) or not any(map(str.isspace, words[0]))):
        name = words.pop(0)
    return name, " ".join(words)


def _run_remote(settings: Settings, name: str | None, question: str) -> int:
    """Talk with a model of a server."""
    from edgellm.commands.remote import RemoteModel, Server

    for option in LOADING:
        if option is not MODEL and settings.origins[option.name].startswith("flag"):
            raise UsageError(
                f"{option.flags[0]} is for a model that is loaded here, and --url names a server"
            )
    server = Server(settings["url"], settings["api_key"])
    thoughts = shown_thoughts(hide=settings["hide_thinking"], fold=on_terminal())

    def opened(name: str | None) -> tuple[RemoteModel, str | None]:
        model = RemoteModel(server, name, think=settings["think"], thoughts=thoughts)
        return model, settings["system"]

    model, system = opened(name)
    write, end = answer_writer()
    options = generate_options(settings)
    conversation = Conversation(model, options, system, write, end=end, opened=opened, thoughts=thoughts)
    _talk(conversation, f"{model.name} at {server.name}", question)
    return 0


def _talk(conversation: Conversation, greeting: str, question: str) -> None:
    kinds = {word: command.kind for word, command in COMMANDS.items()} | {"bye": ""}
    read, typed = line_reader(kinds, lambda: [*conversation.known_options(), "verbose"])
    if typed:
        say(f"{greeting}. /help says what you can do.", dim=True)
        conversation.confirm = lambda fact, question: (
            read(f"{fact}. {question} [y/N] ").strip().lower() in ("y", "yes")
        )
    talk(conversation, read, question)


def talk(conversation: Conversation, read: ReadLine, question: str = "") -> None:
    """Answer a question, if one is given, then messages and commands until the end of the input or /bye."""
    waiting = [question] if question else []
    while True:
        try:
            text = waiting.pop() if waiting else read_message(read)
        except EOFError:
            return
        except KeyboardInterrupt:
            say("(Ctrl+D or /bye leaves)", dim=True)
            continue
        if not text.strip():
            continue
        try:
            if text.startswith("/") and not text.startswith("//"):
                if not obey(conversation, text):
                    return
            else:
                finish(conversation, conversation.ask(text[1:] if text.startswith("//") else text))
        except EdgeLLMError as error:
            say(f"edgellm: {error}")


def read_message(read: ReadLine) -> str:
    """One message: a line, or all lines between `\"\"\"` and `\"\"\"`."""
    line = read(">>> ")
    if not line.lstrip().startswith('"""'):
        return line
    lines = [line.lstrip()[3:]]
    while not lines[-1].rstrip().endswith('"""'):
        lines.append(read("... "))
    lines[-1] = lines[-1].rstrip()[:-3]
    return "\n".join(lines).strip("\n")


URL = Option(
    "url",
    ("--url",),
    "talk with a model of this server (edgellm's, or any that speaks the OpenAI API), which -m names",
    TEXT,
    "URL",
)
API_KEY = Option("api_key", ("--api-key",), "key that the server asks for", TEXT, "KEY")

COMMAND = Command(
    summary="Talk with a model.",
    run=run,
    description="Talks with a model: type a message, read the answer. With no model named, the default one\n"
    "is used, and fetched once.\n\n" + HELP,
    positionals=(
        Positional(
            "words",
            "[MODEL] [QUESTION]: a GGUF file, a name (`edgellm list`) or user/repo:QUANT; a first question",
            "*",
        ),
    ),
    options=(*LOADING, *PACE, *DRAFTING, URL, API_KEY, SYSTEM, *SAMPLING, *THINKING, OFFLINE),
    examples=(
        ("edgellm chat", "talk with the default model"),
        ("edgellm chat model.gguf -c 8192", "with a context of your choice"),
        ('edgellm chat smollm2 "Why is the sky blue?"', "begin with a question"),
        ('edgellm chat --system "Answer in French."', "with instructions"),
        ("edgellm chat --url http://pi.local:8080", "with the model of a server"),
        ("edgellm chat --temp 0 --seed 1 < questions.txt", "one message a line"),
    ),
)
