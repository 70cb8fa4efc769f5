"""Stop texts: ends an answer at one without letting a part of it out."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text through until a stop text appears; holds back text that may become one.

    The stop text that begins first wins; of those that begin together, the one that is complete first.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
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
