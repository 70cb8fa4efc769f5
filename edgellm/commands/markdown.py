"""Answers on a terminal: Markdown as it comes, wrapped at words, with code in colours."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from edgellm.errors import harmless

if TYPE_CHECKING:
    from markdown_it.token import Token
    from rich.console import ConsoleOptions, RenderResult

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
# The beginning of a line that may go on with a list.
_GOES_ON = re.compile(r"\s|[-*+](\s|\Z)|\d+([.)](\s|\Z)|\Z)")
# A block of this many characters is printed for good at its next line break: it would be drawn too slowly.
LONG_BLOCK = 4000
# Least seconds between two drawings, and the share of time that drawing may take.
REDRAW_S, REDRAW_SHARE = 0.05, 0.2


class AnswerMarkdown(Markdown):
    """Markdown as models write it: line breaks count, HTML is text, backslashes stay (formulas have them)."""

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark")
        parser = (
            MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("escape")
        )
        self.markup = text
        self.parsed = parser.parse(text)
        _break_lines(self.parsed)


def _break_lines(tokens: list[Token]) -> None:
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _break_lines(token.children or [])


class MarkdownWriter:
    """Draws the block that is being written, and prints it for good once the next one begins."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._block = ""
        self._begun = False
        self._drawn_at = 0.0
        self._pause_s = REDRAW_S

    def write(self, text: str) -> None:
        """More of the answer."""
        self._block += harmless(text)
        done, self._block = _split(self._block)
        if done.strip():
            self._print(done)
        if self._block.strip() and time.monotonic() - self._drawn_at > self._pause_s:
            self._draw()

    def end(self) -> None:
        """The end of the answer."""
        rest, self._block = self._block, ""
        if rest.strip():
            self._print(rest)
        self._begun = False

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.stop()  # takes away what was drawn
            self._live = None
        if self._begun:
            self._console.print()
        self._begun = True
        self._console.print(_Block(text))

    def _draw(self) -> None:
        begin = time.monotonic()
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        most = max(1, self._console.height - 2)
        self._live.update(_Block(self._block, space=self._begun, most=most), refresh=True)
        self._drawn_at = time.monotonic()
        self._pause_s = max(REDRAW_S, (self._drawn_at - begin) / REDRAW_SHARE)


class _Block:
    """A block without empty lines around it, after one if `space`; only its last lines if `most` is given."""

    def __init__(self, text: str, *, space: bool = False, most: int | None = None) -> None:
        self._text = text
        self._space = space
        self._most = most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(AnswerMarkdown(self._text.strip("\n")), options, pad=False)
        while lines and not _shown(lines[0]):
            lines.pop(0)
        while lines and not _shown(lines[-1]):
            lines.pop()
        if self._space:
            lines.insert(0, [])
        for number, line in enumerate(lines[-(self._most or len(lines)) :]):
            if number:
                yield Segment.line()
            yield from line
        if self._most is None:
            yield Segment.line()


def _shown(line: Sequence[Segment]) -> bool:
    return any(segment.text.strip() for segment in line)


def _split(text: str) -> tuple[str, str]:
    """Blocks that are complete, and the rest: a block ends at an empty line outside of a fence of code."""
    fence, place, end = "", 0, 0
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
        elif mark:
            fence = mark[1]
        elif not line.strip() and line.endswith("\n"):
            end = place + len(line)
        place += len(line)
    # The line after an empty one tells if a list goes on: its numbers would begin anew.
    if end and end == len(text):
        return "", text
    rest = text[end:]
    if end and _GOES_ON.match(rest) and _in_list(text[:end]):
        return "", text
    if not end and not fence and len(text) > LONG_BLOCK and (last := text.rfind("\n") + 1):
        return text[:last], text[last:]
    return text[:end], rest


def _in_list(text: str) -> bool:
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]
    return bool(blocks) and re.match(r"\s*([-*+]|\d+[.)]) ", blocks[0]) is not None
