"""Stop texts: ends an answer at one without letting a part of it out."""

from __future__ import annotations

import re
from collections.abc import Sequence


class StopFilter:
    """Passes text through until a stop text appears; holds back text that may become one.

    The stop text that begins first wins; of those that begin together, the one that is complete first.
    until: a regular expression; from where it matches on, no stop text counts.
    """

    def __init__(self, stops: Sequence[str], until: str | None = None) -> None:
        self._stops = tuple(stops)
        self._until = None if until is None or not stops else re.compile(until)
        self._seen = ""
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text; returns the text that is certainly no part of a stop text. After a match it returns
        nothing.
        """
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        if self._until is not None and self._passed(text):
            out, self._held = self._held, ""
            return out
        found = [
            (start, start + len(stop), stop) for stop in self._stops if (start := self._held.find(stop)) >= 0
        ]
        if found:
            start, _, self.matched = min(found)
            out, self._held = self._held[:start], ""
            return out
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def _passed(self, text: str) -> bool:
        """True once `until` has matched and no stop text was before it."""
        self._seen += text
        if self._until is None or (mark := self._until.search(self._seen)) is None:
            return False
        place = mark.start() - (len(self._seen) - len(self._held))
        if any(0 <= self._held.find(stop) < place for stop in self._stops):
            return False
        self._stops, self._until = (), None
        return True

    def flush(self) -> str:
        """Text held back, for an answer that has ended for another reason."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
