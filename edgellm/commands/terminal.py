"""The terminal of a chat: typed lines, keys that wait while an answer comes, loading that is shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.errors import size_text
from edgellm.store.paths import home

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

# Returns the next line for a prompt; raises EOFError at the end and KeyboardInterrupt on Ctrl+C.
ReadLine = Callable[[str], str]


def on_terminal() -> bool:
    """True if a person types and reads messages on a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def draws() -> bool:
    """True if standard output is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def answer_writer() -> tuple[Callable[[str], None], Callable[[str], None] | None]:
    """Functions that write a piece of an answer and end it; Markdown is drawn on a terminal only."""
    from edgellm.commands.loading import write_answer

    if not draws():
        return write_answer, None
    from edgellm.commands.markdown import MarkdownWriter

    writer = MarkdownWriter()
    return writer.write, lambda text: writer.end()


@contextlib.contextmanager
def keys_held_back() -> Iterator[None]:
    """Context in which typed keys are not shown; the next line that is read begins with them.

    Windows echoes them as they are typed.
    """
    if sys.platform == "win32":
        yield
        return
    import termios

    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, AttributeError, termios.error):
        yield
        return
    quiet = list(before)
    quiet[0] &= ~termios.ICRNL  # Enter stays apart from Ctrl+J, which begins a line
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


@contextlib.contextmanager
def shown_loading(path: Path) -> Iterator[None]:
    """Context in which a line on the terminal says that a file is loaded, and how far it is."""
    if not (on_terminal() and os.environ.get("TERM", "") not in ("", "dumb")):
        yield
        return
    from rich.console import Console
    from rich.status import Status

    with Status(_Progress(path), console=Console(stderr=True), refresh_per_second=8), keys_held_back():
        yield


class _Progress:
    """`loading model.gguf, 40 % of 2100 MB`: by the memory that weights have taken so far."""

    def __init__(self, path: Path) -> None:
        from edgellm.device.memory import own_memory

        self._own_memory = own_memory
        self._path = path
        self._size = path.stat().st_size
        self._before = own_memory() or 0

    def __rich__(self) -> str:
        from rich.markup import escape

        taken = (self._own_memory() or 0) - self._before
        percent = max(0, min(99, 100 * taken // max(1, self._size)))
        return f"loading {escape(self._path.name)}, {percent} % of {size_text(self._size)}"


def line_reader(commands: dict[str, str], settings: Callable[[], list[str]]) -> tuple[ReadLine, bool]:
    """Function that reads a line, and True if lines come from a terminal.

    commands: names and, for completion, the kind of their argument: "file", "setting", "model" or "".
    """
    if not on_terminal():
        return _read_pipe, False

    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    history: History
    path = home() / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
        history = FileHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    # The prompt goes to standard error: standard output is the model's.
    session: PromptSession[str] = PromptSession(
        history=history,
        output=create_output(sys.stderr),
        multiline=True,
        prompt_continuation=lambda width, number, wrapped: "" if wrapped else "... ",
        key_bindings=keys,
        completer=_completer(commands, settings),
        complete_while_typing=False,
        erase_when_done=True,
    )

    def read(prompt: str) -> str:
        text = session.prompt(prompt)
        _show_message(prompt, text)
        return text

    return read, True


def _show_message(prompt: str, text: str) -> None:
    """Print a message that was typed, wrapped at words."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    indent = "... " if prompt.startswith((">", ".")) else ""
    width = max(10, console.width - len(indent))
    lines = [part.plain for line in text.split("\n") for part in Text(line).wrap(console, width)] or [""]
    for number, line in enumerate(lines):
        console.print(Text((indent if number else prompt) + line), soft_wrap=True)


def _completer(commands: dict[str, str], settings: Callable[[], list[str]]) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    files = PathCompleter(expanduser=True)

    class Commands(Completer):
        """Completes commands, and their arguments."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            if not text.startswith("/") or text.startswith("//"):
                return
            word, space, rest = text[1:].partition(" ")
            if not space:
                found = (name for name in commands if name.startswith(word) and name != "?")
                yield from (Completion(f"/{name} ", -len(text)) for name in found)
                return
            kind = commands.get(word, "")
            if kind == "file" or kind == "model":
                yield from files.get_completions(Document(rest, len(rest)), event)
            names = settings() if kind == "setting" else _model_names() if kind == "model" else []
            yield from (Completion(name, -len(rest)) for name in names if name.startswith(rest))

    return Commands()


def _model_names() -> list[str]:
    from edgellm.store.catalog import known_models
    from edgellm.store.hub_catalog import hub_models

    return [*(model.name for model in known_models()), *(model.name for model in hub_models())]


def _read_pipe(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
