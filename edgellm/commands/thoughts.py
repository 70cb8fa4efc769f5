"""Thoughts of answers on standard error, apart from the words on standard output."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING

from edgellm.errors import harmless

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

_DIM = "\x1b[2m", "\x1b[0m"
# Seconds between two drawings of a thought, and the lines and characters of its end that are drawn.
_REDRAW_S = 0.1
_LINES, _CHARS = 6, 2000


class Thoughts:
    """Thoughts of answers, which this class keeps and does not show; `last` is the latest answer's."""

    def __init__(self) -> None:
        self.last = ""
        self._open = False

    def begin(self) -> None:
        """A new answer begins."""
        self.end()
        self.last = ""

    def think(self, text: str) -> None:
        """Take a piece of a thought, without the line breaks before the first."""
        text = text if self._open else text.lstrip("\n")
        if not text:
            return
        if not self._open:
            self.last += "\n\n" if self.last else ""
            self._open = True
        self.last += text
        self._show(harmless(text))

    def end(self) -> None:
        """End the thought, if there is one: words follow, or nothing."""
        if self._open:
            self._open = False
            self._close()

    def _show(self, text: str) -> None: ...

    def _close(self) -> None: ...


class OpenThoughts(Thoughts):
    """Thoughts that are written as they come, dimmed and wrapped at words, with a blank line after them."""

    def __init__(self) -> None:
        super().__init__()
        self._wrapped = Wrapped()

    def _show(self, text: str) -> None:
        _write(self._wrapped.add(text))

    def _close(self) -> None:
        rest = self._wrapped.end()
        _write(rest + ("\n" if self.last.endswith("\n") else "\n\n"))


class FoldedThoughts(Thoughts):
    """Thoughts whose last lines are shown while they come; a thought that has ended leaves one line."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._text = ""
        self._begun_at = self._drawn_at = 0.0

    def _show(self, text: str) -> None:
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            self._text, self._begun_at = "", time.monotonic()
            console = Console(stderr=True, highlight=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        self._text += text
        if time.monotonic() - self._drawn_at > _REDRAW_S:
            self._live.update(_End(self._text), refresh=True)
            self._drawn_at = time.monotonic()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()  # takes away what was drawn
            self._live = None
        seconds = time.monotonic() - self._begun_at
        line = Wrapped()
        _write(line.add(f"(thought for {seconds:.0f} s; /thoughts shows it)") + line.end() + "\n\n")


class _End:
    """The last lines of a thought."""

    def __init__(self, text: str) -> None:
        self._text = text[-_CHARS:] if len(text) <= _CHARS else text[-_CHARS:].partition(" ")[2]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        text = Text(self._text.rstrip("\n"), style="" if _plain() else "dim")
        yield Text("\n").join(list(text.wrap(console, max(10, options.max_width)))[-_LINES:])


class Wrapped:
    """Text that comes in pieces, with line breaks between words that would pass the terminal's edge."""

    def __init__(self, width: int | None = None) -> None:
        self._width = width
        self._column = 0
        self._gap = self._word = ""

    def add(self, text: str) -> str:
        """The next piece, without a word at its end that may go on."""
        out = ""
        for part in re.findall(r"\n|[^\S\n]+|\S+", text):
            if part == "\n":
                out += self.end() + "\n"
                self._column = 0
            elif part.isspace():
                out += self._take_word()
                self._gap += part
            else:
                self._word += part
        return out

    def end(self) -> str:
        """The word that was held back."""
        out = self._take_word()
        self._gap = ""
        return out

    def _take_word(self) -> str:
        if not self._word:
            return ""
        import shutil

        from rich.cells import cell_len, chop_cells

        width = self._width or max(20, shutil.get_terminal_size().columns - 1)
        gap, word, self._gap, self._word = self._gap, self._word, "", ""
        out = ""
        if self._column and self._column + cell_len(gap + word) > width:
            out, gap, self._column = "\n", "", 0
        if cell_len(gap + word) > width:  # longer than a line, as texts without spaces are
            gap, word = "", "\n".join(chop_cells(word, width))
        last = word.rpartition("\n")[2]
        self._column = cell_len(last) + (0 if "\n" in word else self._column + cell_len(gap))
        return out + gap + word


def shown_thoughts(*, hide: bool, fold: bool) -> Thoughts:
    """Thoughts as a terminal shows them; without one, or to `hide` them, they are only kept."""
    if hide or not sys.stderr.isatty():
        return Thoughts()
    folds = fold and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return FoldedThoughts() if folds else OpenThoughts()


def _plain() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _write(text: str) -> None:
    if text:
        before, after = ("", "") if _plain() else _DIM
        sys.stderr.write(f"{before}{text}{after}")
        sys.stderr.flush()
