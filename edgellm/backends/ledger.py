"""Ledger of a cache's blocks, for backends without one of their own."""

from __future__ import annotations

import itertools

from edgellm.backends.base import Flags, Ids, blocks_for
from edgellm.errors import BackendError


class Ledger:
    """Sequences of at most `n_ctx` tokens in blocks of `block_tokens` tokens.

    recurrent: sequences cannot be truncated. kept_tokens: a sequence can be truncated by at most this many
    tokens; None: by any number. copies: a fork shares no blocks.
    """

    def __init__(
        self,
        *,
        n_ctx: int,
        cache_tokens: int,
        block_tokens: int,
        recurrent: bool = False,
        kept_tokens: int | None = None,
        copies: bool = False,
    ) -> None:
        self.n_ctx = n_ctx
        self.block_tokens = block_tokens
        self.n_blocks = blocks_for(0, cache_tokens, block_tokens)
        self._kept_tokens = 0 if recurrent else kept_tokens
        self._copies = copies
        self._lengths: dict[int, int] = {}
        self._blocks: dict[int, list[int]] = {}
        self._users = [0] * self.n_blocks
        self._free = list(range(self.n_blocks))
        self._numbers = itertools.count()

    @property
    def n_undo(self) -> int:
        """Number of last tokens of a sequence that can always be truncated."""
        return self.n_ctx if self._kept_tokens is None else self._kept_tokens

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def sequences(self) -> tuple[int, ...]:
        """Open sequences."""
        return tuple(self._lengths)

    def length(self, sequence: int) -> int:
        """Number of tokens of an open sequence; BackendError if it is not open."""
        found = self._lengths.get(sequence)
        if found is None:
            raise BackendError(f"There is no open sequence {sequence}.")
        return found

    def open(self) -> int:
        """Open an empty sequence."""
        sequence = next(self._numbers)
        self._lengths[sequence], self._blocks[sequence] = 0, []
        return sequence

    def close(self, sequence: int) -> None:
        """Close a sequence and free the blocks that no other one shares."""
        self.length(sequence)
        del self._lengths[sequence]
        self._release(self._blocks.pop(sequence))

    def fork_blocks(self, n_tokens: int) -> int:
        """Free blocks that a fork of `n_tokens` tokens takes."""
        return blocks_for(0, n_tokens if self._copies else n_tokens % self.block_tokens, self.block_tokens)

    def fork(self, sequence: int, n_tokens: int) -> int:
        """Open a sequence with the first `n_tokens` of another; BackendError if they are gone or have no
        room.
        """
        self._check_held(sequence, n_tokens)
        self._check_free(self.fork_blocks(n_tokens))
        fork = self.open()
        if not self._copies:
            self._blocks[fork] = self._blocks[sequence][: n_tokens // self.block_tokens]
            for block in self._blocks[fork]:
                self._users[block] += 1
        self._grow(fork, n_tokens)
        return fork

    def truncate(self, sequence: int, n_tokens: int) -> None:
        """Drop all but the first `n_tokens`; BackendError as for a fork."""
        self._check_held(sequence, n_tokens)
        keep = blocks_for(0, n_tokens, self.block_tokens)
        blocks = self._blocks[sequence]
        if n_tokens % self.block_tokens and self._users[blocks[keep - 1]] > 1:
            # The block to be written next is shared, so a copy replaces it.
            self._check_free(1)
            keep -= 1
        self._release(blocks[keep:])
        self._blocks[sequence] = blocks[:keep]
        self._grow(sequence, n_tokens)

    def check_step(self, tokens: Ids, sequences: Ids, outputs: Flags, batch: int) -> dict[int, list[int]]:
        """Positions of each sequence's tokens in a step, in order: sequence -> indices.

        Raises BackendError, without a change, for an invalid step.
        """
        if not len(tokens) == len(sequences) == len(outputs):
            raise BackendError("A step needs as many sequences and outputs as tokens.")
        if len(tokens) > batch:
            raise BackendError(f"A step of {len(tokens)} tokens exceeds the batch of {batch}.")
        places: dict[int, list[int]] = {}
        for index, sequence in enumerate(sequences):
            places.setdefault(sequence, []).append(index)
        needed = 0
        for sequence, indices in places.items():
            length = self.length(sequence)
            if length + len(indices) > self.n_ctx:
                raise BackendError(
                    f"A sequence of {length + len(indices)} tokens exceeds the context of {self.n_ctx}."
                )
            needed += blocks_for(length, len(indices), self.block_tokens)
        self._check_free(needed)
        return places

    def append(self, sequence: int, n_tokens: int) -> None:
        """Give a sequence the blocks for `n_tokens` more tokens; `check_step` has found them free."""
        self._grow(sequence, self._lengths[sequence] + n_tokens)

    def clear(self) -> None:
        """Close every sequence."""
        for sequence in self.sequences:
            self.close(sequence)

    def _check_held(self, sequence: int, n_tokens: int) -> None:
        length = self.length(sequence)
        if not 0 <= n_tokens <= length:
            raise BackendError(f"Sequence {sequence} holds {length} tokens, expected {n_tokens} or more.")
        if self._kept_tokens is not None and n_tokens < length - self._kept_tokens:
            raise BackendError(f"The first {n_tokens} tokens of sequence {sequence} are no longer held.")

    def _check_free(self, count: int) -> None:
        if count > self.free_blocks:
            raise BackendError(f"{count} cache blocks are needed and {self.free_blocks} are free.")

    def _grow(self, sequence: int, n_tokens: int) -> None:
        blocks = self._blocks[sequence]
        for _ in range(blocks_for(0, n_tokens, self.block_tokens) - len(blocks)):
            block = self._free.pop()
            self._users[block] = 1
            blocks.append(block)
        self._lengths[sequence] = n_tokens

    def _release(self, blocks: list[int]) -> None:
        for block in blocks:
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)


class Booked:
    """Methods of a backend that its ledger answers."""

    _ledger: Ledger
    unread_bytes = 0  # steps read all weights

    @property
    def block_tokens(self) -> int:
        return self._ledger.block_tokens

    @property
    def n_blocks(self) -> int:
        return self._ledger.n_blocks

    @property
    def free_blocks(self) -> int:
        return self._ledger.free_blocks

    def fork_blocks(self, n_tokens: int) -> int:
        return self._ledger.fork_blocks(n_tokens)

    def sequence_length(self, sequence: int) -> int:
        return self._ledger.length(sequence)
