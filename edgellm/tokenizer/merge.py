"""Greedy pair merging, which byte-pair encoding and SentencePiece's BPE share, and memory of what it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

_CACHED_PIECES = 65_536
_CACHED_CHARS = 64


def merge_pairs(symbols: list[str], priority: Callable[[str, str], float | None]) -> list[str]:
    """Merge the neighbours with the lowest priority, leftmost first, until no pair has one.

    `priority(left, right)` is None for pairs that do not merge. O(n log n) in the number of symbols.
    Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
    """
    n = len(symbols)
    queue: list[tuple[float, int, int]] = []
    for i in range(n - 1):
        rank = priority(symbols[i], symbols[i + 1])
        if rank is not None:
            queue.append((rank, i, len(symbols[i]) + len(symbols[i + 1])))
    if not queue:
        return symbols
    heapify(queue)
    following = list(range(1, n + 1))
    preceding = list(range(-1, n - 1))
    while queue:
        _, left, size = heappop(queue)
        right = following[left]
        if not symbols[left] or right == n:
            continue
        merged = symbols[left] + symbols[right]
        # A symbol only ever grows to the right, so the same size means the same two symbols as when queued.
        if len(merged) != size:
            continue
        symbols[left] = merged
        symbols[right] = ""
        after = following[right]
        following[left] = after
        if after < n:
            preceding[after] = left
            rank = priority(merged, symbols[after])
            if rank is not None:
                heappush(queue, (rank, left, size + len(symbols[after])))
        before = preceding[left]
        if before >= 0:
            rank = priority(symbols[before], merged)
            if rank is not None:
                heappush(queue, (rank, before, len(symbols[before]) + size))
    return [symbol for symbol in symbols if symbol]


class PieceCache:
    """Encodes pieces of text and remembers the short ones: words come back, and merging is costly."""

    def __init__(self, encode_piece: Callable[[str], list[int]]) -> None:
        self._encode_piece = encode_piece
        self._known: dict[str, list[int]] = {}

    def encode(self, pieces: Iterable[str]) -> list[int]:
        """The ids of all pieces, in order."""
        known = self._known
        out: list[int] = []
        for piece in pieces:
            ids = known.get(piece)
            if ids is None:
                ids = self._encode_piece(piece)
                if len(piece) <= _CACHED_CHARS:
                    if len(known) >= _CACHED_PIECES:
                        known.clear()
                    known[piece] = ids
            out += ids
        return out
