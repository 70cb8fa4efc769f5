"""Greedy pair merging, the loop that byte-pair encoding and SentencePiece's BPE share."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush


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
