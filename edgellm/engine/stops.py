"""Ends an answer at a stop text without ever letting a part of it out."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text through until one of the stop texts appears; holds back what may become one.

    Of several stop texts the one that begins first wins; of those that begin together, the one that is
    complete first.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text; return what is certainly not part of a stop text. After a match nothing more comes."""
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
        """The text held back, once the answer has ended for another reason."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop` without completing it."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
