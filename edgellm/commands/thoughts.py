"""Thoughts of answers on standard error, apart from the words on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from edgellm.errors import harmless


class Apart:
    """Thoughts on their way to `show`, with a blank line between them and the words."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._last = ""

    def think(self, text: str) -> None:
        """Show a piece of a thought, without the line breaks before the first."""
        text = text if self._last else text.lstrip("\n")
        if text:
            self._last = text
            self._show(text)

    def end(self) -> None:
        """End the thought, if there is one."""
        if self._last:
            self._show("\n" if self._last.endswith("\n") else "\n\n")
            self._last = ""


def silent(text: str) -> None:
    """Show nothing."""


def write_thought(text: str) -> None:
    """Write a piece of a thought on standard error, dimmed; nothing if that is no terminal."""
    if not sys.stderr.isatty():
        return
    text = harmless(text)
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    sys.stderr.write(text if plain else f"\x1b[2m{text}\x1b[0m")
    sys.stderr.flush()
