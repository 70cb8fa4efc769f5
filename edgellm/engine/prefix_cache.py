"""Finished sequences stay in the cache, so that a prompt which begins like one need not be read again.

Blocks of tokens are shared by the backend: a fork of a parked sequence costs at most one block. Parked
sequences are closed, the least recently used first, when the blocks are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.backends.base import Backend, Ints


@dataclass(frozen=True, slots=True)
class Match:
    """A sequence whose first `n_tokens` tokens (`whole`: all of them) are those of the prompt."""

    sequence: int
    n_tokens: int
    whole: bool


class PrefixCache:
    """The parked sequences of one backend; at most `max_parked`, and none at all if that is 0.

    min_tokens: a shorter common beginning is not worth a fork.
    """

    def __init__(self, backend: Backend, *, max_parked: int, min_tokens: int = 16) -> None:
        self._backend = backend
        self._max_parked = max_parked
        self._min_tokens = min_tokens
        self._parked: dict[int, Ints] = {}  # in order of use, the least recent first

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, sequence: int, tokens: Sequence[int]) -> None:
        """Take over a sequence that holds exactly `tokens`; those that it makes useless are closed."""
        held = np.asarray(tokens, np.int32)
        if len(held) < self._min_tokens or self._max_parked == 0:
            self._backend.close_sequence(sequence)
            return
        if not self._backend.recurrent:
            # A parked sequence that is a beginning of this one can serve nothing that this one cannot.
            for other, theirs in list(self._parked.items()):
                if len(theirs) <= len(held) and np.array_equal(theirs, held[: len(theirs)]):
                    self._close(other)
        self._parked[sequence] = held
        while len(self._parked) > self._max_parked:
            self.evict()

    def acquire(self, prompt: Sequence[int], live: Iterable[tuple[int, Sequence[int]]]) -> tuple[int, int]:
        """Open a sequence that holds as many of the prompt's first tokens as any parked or `live` one.

        At least the last token is left to compute, because its logits are wanted. Live sequences are given
        as (sequence, tokens it holds). Returns (sequence, tokens it holds).
        """
        wanted = np.asarray(prompt, np.int32)
        match = self._find(wanted, live)
        if match is None:
            return self._backend.open_sequence(), 0
        held = self._parked.pop(match.sequence, None)
        if held is not None:
            if match.whole:
                return match.sequence, match.n_tokens
            self._parked[match.sequence] = held  # used just now
        if match.n_tokens % self._backend.block_tokens and not self.make_room(1, keep=match.sequence):
            if held is None:
                return self._backend.open_sequence(), 0
            del self._parked[match.sequence]
            self._backend.truncate_sequence(match.sequence, match.n_tokens)
            return match.sequence, match.n_tokens
        return self._backend.fork_sequence(match.sequence, match.n_tokens), match.n_tokens

    def make_room(self, n_blocks: int, keep: int | None = None) -> bool:
        """Close parked sequences, except `keep`, until `n_blocks` are free; whether they are."""
        while self._backend.free_blocks < n_blocks:
            if not self.evict(keep):
                return False
        return True

    def evict(self, keep: int | None = None) -> bool:
        """Close the least recently used parked sequence other than `keep`; False if there is none."""
        oldest = next((sequence for sequence in self._parked if sequence != keep), None)
        if oldest is None:
            return False
        self._close(oldest)
        return True

    def clear(self) -> None:
        """Close every parked sequence."""
        while self.evict():
            pass

    def _find(self, wanted: Ints, live: Iterable[tuple[int, Sequence[int]]]) -> Match | None:
        best: Match | None = None
        candidates = [*self._parked.items(), *((s, np.asarray(tokens, np.int32)) for s, tokens in live)]
        for sequence, held in candidates:
            n_tokens = min(_common(held, wanted), len(wanted) - 1)
            if n_tokens < self._min_tokens or (self._backend.recurrent and n_tokens < len(held)):
                continue
            match = Match(sequence, n_tokens, whole=n_tokens == len(held))
            if best is None or (n_tokens, match.whole) > (best.n_tokens, best.whole):
                best = match
        return best

    def _close(self, sequence: int) -> None:
        del self._parked[sequence]
        self._backend.close_sequence(sequence)


def _common(a: Ints, b: Ints) -> int:
    """The number of equal tokens at the beginning of both."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size
