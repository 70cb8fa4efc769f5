"""`edgellm chat`: talk with a model, on a terminal or with lines from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from edgellm.commands.conversation import Conversation, LocalConversation, Reply, say
from edgellm.commands.loading import (
    find_model,
    generate_options,
    load_model,
    note_of_budget,
    note_of_end,
    system_prompt,
    write_answer,
)
from edgellm.commands.options import (
    DRAFTING,
    LOADING,
    MODEL,
    OFFLINE,
    SAMPLING,
    SYSTEM,
    TEXT,
    THINKING,
    Command,
    Option,
    Positional,
)
from edgellm.commands.settings import Settings
from edgellm.errors import EdgeLLMError, UsageError
from edgellm.store.paths import home

# Returns the next line for a prompt; raises EOFError at the end and KeyboardInterrupt on Ctrl+C.
ReadLine = Callable[[str], str]

HELP = '''\
/help             this
/clear            forget the conversation
/system TEXT      instructions for the model; without TEXT: show them
/set NAME VALUE   change temperature, top_k, seed, ...; without NAME: show them
/regen            answer the last message again
/undo             take back the last message and its answer
/read FILE        put a text file before the next message
/save FILE        write the conversation to a file
/load FILE        go on with a conversation from a file
/stats            what the last answer cost
/context          how much of the context is used
/bye              leave (or Ctrl+D)

""" begins and ends a message of several lines. Ctrl+C stops an answer and keeps what came.'''


def run(settings: Settings) -> int:
    """Talk until the user leaves."""
    if settings["url"]:
        return _run_remote(settings)
    path = find_model(settings["name"] or settings["model"], settings)
    model = load_model(path, settings)
    try:
        options, system = generate_options(settings), system_prompt(path, settings)
        if note := note_of_budget(model, options):
            say(f"edgellm: {note}")
        conversation = LocalConversation(
            model,
            options,
            system,
            write_answer,
            think=settings["think"],
            hide_thinking=settings["hide_thinking"],
        )
        read, on_terminal = _line_reader()
        if on_terminal:
            say(f"{model.name}, context {model.n_ctx} tokens. /help says what you can do.", dim=True)
        talk(conversation, read)
    finally:
        model.close()
    return 0


def _run_remote(settings: Settings) -> int:
    """Talk with a model of a server."""
    from edgellm.commands.remote import RemoteModel, Server

    for option in LOADING:
        if option is not MODEL and settings.origins[option.name].startswith("flag"):
            raise UsageError(
                f"{option.flags[0]} is for a model that is loaded here, and --url names a server"
            )
    server = Server(settings["url"], settings["api_key"])
    model = RemoteModel(
        server,
        settings["name"] or settings["model"],
        think=settings["think"],
        hide_thinking=settings["hide_thinking"],
    )
    conversation = Conversation(model, generate_options(settings), settings["system"], write_answer)
    read, on_terminal = _line_reader()
    if on_terminal:
        say(f"{model.name} at {server.name}. /help says what you can do.", dim=True)
    talk(conversation, read)
    return 0


def talk(conversation: Conversation, read: ReadLine) -> None:
    """Read messages and commands until the end of the input or /bye."""
    while True:
        try:
            text = read_message(read)
        except EOFError:
            return
        except KeyboardInterrupt:
            say("(Ctrl+D or /bye leaves)", dim=True)
            continue
        if not text.strip():
            continue
        try:
            if text.startswith("/"):
                if not obey(conversation, text):
                    return
            else:
                _finish(conversation, conversation.ask(text))
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


def obey(conversation: Conversation, text: str) -> bool:
    """Run a /command; False if it ends the conversation."""
    word, _, rest = text[1:].partition(" ")
    rest = rest.strip()
    if word in ("bye", "exit", "quit"):
        return False
    action = _ACTIONS.get(word)
    if action is None:
        raise UsageError(f"There is no /{word}; /help lists what there is")
    action(conversation, rest)
    return True


def _system(conversation: Conversation, text: str) -> None:
    if text:
        conversation.system = text
        say("The model gets these instructions from the next message on.", dim=True)
    else:
        say(conversation.system or "There are no instructions; /system TEXT sets them.", dim=True)


def _set(conversation: Conversation, text: str) -> None:
    name, _, value = text.partition(" ")
    if not name:
        for key, value in conversation.known_options().items():
            say(f"{key} = {'not set' if value is None else value}", dim=True)
        return
    if not value.strip():
        raise UsageError(f"/set {name} needs a value, such as /set temperature 0.7")
    conversation.set_option(name, value.strip())


def _clear(conversation: Conversation, _: str) -> None:
    conversation.clear()
    say("The conversation is forgotten.", dim=True)


def _regenerate(conversation: Conversation, _: str) -> None:
    _finish(conversation, conversation.regenerate())


def _undo(conversation: Conversation, _: str) -> None:
    say(f"Taken back: {conversation.undo()}", dim=True)


def _read(conversation: Conversation, text: str) -> None:
    path = _path(text, "/read")
    say(f"{conversation.attach(path)} characters of {path} come before your next message.", dim=True)


def _save(conversation: Conversation, text: str) -> None:
    path = _path(text, "/save")
    conversation.save(path)
    say(f"Saved to {path}.", dim=True)


def _load(conversation: Conversation, text: str) -> None:
    path = _path(text, "/load")
    conversation.load(path)
    say(f"{len(conversation.messages)} messages from {path}.", dim=True)


def _stats(conversation: Conversation, _: str) -> None:
    reply = conversation.last
    if reply is None or reply.stats is None:
        raise UsageError("There is no answer yet")
    stats = reply.stats
    say(conversation.cost(reply), dim=True)
    say(
        f"prompt {stats.n_prompt} tok ({stats.n_cached} from the cache), {stats.prompt_tok_s:.1f} tok/s; "
        f"answer {stats.n_generated} tok in {stats.generate_s:.2f} s; "
        f"{stats.n_accepted} of {stats.n_drafted} draft tokens accepted; ended by {reply.finish_reason}",
        dim=True,
    )


def _context(conversation: Conversation, _: str) -> None:
    used, n_ctx = conversation.n_tokens(), conversation.model.n_ctx
    share = "" if n_ctx is None else f" of {n_ctx}"
    percent = "" if n_ctx is None else f" ({100 * used / n_ctx:.0f} %)"
    say(f"{used}{share} tokens{percent} in {len(conversation.messages)} messages", dim=True)


def _help(conversation: Conversation, _: str) -> None:
    say(HELP)


_ACTIONS: dict[str, Callable[[Conversation, str], None]] = {
    "help": _help,
    "?": _help,
    "clear": _clear,
    "system": _system,
    "set": _set,
    "regen": _regenerate,
    "undo": _undo,
    "read": _read,
    "save": _save,
    "load": _load,
    "stats": _stats,
    "context": _context,
}


def _path(text: str, command: str) -> Path:
    if not text:
        raise UsageError(f"{command} needs a file: {command} FILE")
    return Path(text).expanduser()


def _finish(conversation: Conversation, reply: Reply) -> None:
    """End the answer's line, and print its cost."""
    write_answer("" if reply.text.endswith("\n") else "\n")
    if note := note_of_end(reply, conversation.model.n_ctx):
        say(f"edgellm: {note}")
    say(conversation.cost(reply), dim=True)


def _line_reader() -> tuple[ReadLine, bool]:
    """Function that reads a line, and True if lines come from a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return _read_pipe, False

    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.output import create_output

    history: History
    path = home() / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
        history = FileHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    # The prompt goes to standard error: standard output is the model's.
    session: PromptSession[str] = PromptSession(history=history, output=create_output(sys.stderr))
    return lambda prompt: session.prompt(prompt), True


def _read_pipe(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


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
    positionals=(Positional("name", "path of a GGUF file, name (`edgellm list`), or user/repo:QUANT"),),
    options=(*LOADING, *DRAFTING, URL, API_KEY, SYSTEM, *SAMPLING, *THINKING, OFFLINE),
    examples=(
        ("edgellm chat", "talk with the default model"),
        ("edgellm chat model.gguf -c 8192", "with a longer context"),
        ('edgellm chat --system "Answer in French."', "with instructions"),
        ("edgellm chat --url http://pi.local:8080", "with the model of a server"),
        ("edgellm chat --temp 0 --seed 1 < questions.txt", "one message a line"),
    ),
)
