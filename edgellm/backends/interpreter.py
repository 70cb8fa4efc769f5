"""The NumPy program interpreter as a backend: recomputes whole sequences, exact and slow.

It follows the same rules for blocks, forks and recurrent state as a real engine, so that what is built on
backends can be tested on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from edgellm.backends.base import Bools, Floats, Ints, blocks_for
from edgellm.errors import BackendError
from edgellm.gguf.reader import GGUFFile
from edgellm.quant import decode


class SequenceModel(Protocol):
    """What the backend computes with: whole sequences in, one row per token out (program.Interpreter)."""

    def logits(self, ids: Sequence[int], /) -> Floats: ...

    def hidden(self, ids: Sequence[int], /) -> Floats: ...


class DecodedWeights(Mapping[str, Floats]):
    """The tensors of a GGUF file as float32, decoded when first asked for and then kept."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._decoded: dict[str, Floats] = {}

    def __getitem__(self, name: str) -> Floats:
        if name not in self._decoded:
            info = self._file.tensors[name]
            self._decoded[name] = decode(info.type, self._file.data(name), info.shape)
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.tensors)

    def __len__(self) -> int:
        return len(self._file.tensors)


class InterpreterBackend:
    """A backend over anything that maps a sequence to rows of logits.

    kept_tokens: a sequence can only be cut at, or behind, this many tokens before its end; None: anywhere.
    """

    def __init__(
        self,
        model: SequenceModel,
        *,
        n_vocab: int,
        n_embd: int,
        n_ctx: int,
        recurrent: bool = False,
        kept_tokens: int | None = None,
        cache_tokens: int | None = None,
        batch: int = 256,
        block_tokens: int = 32,
    ) -> None:
        self._model = model
        self.n_vocab = n_vocab
        self.n_embd = n_embd
        self.n_ctx = n_ctx
        self.recurrent = recurrent
        self._kept_tokens = kept_tokens
        self.batch = batch
        self.block_tokens = block_tokens
        self.n_blocks = blocks_for(0, cache_tokens or n_ctx, block_tokens)
        self._tokens: dict[int, list[int]] = {}
        self._blocks: dict[int, list[int]] = {}
        self._users = dict.fromkeys(range(self.n_blocks), 0)
        self._numbers = itertools.count()

    @property
    def windowed(self) -> bool:
        return self._kept_tokens is not None

    @property
    def free_blocks(self) -> int:
        return sum(users == 0 for users in self._users.values())

    @property
    def sequences(self) -> tuple[int, ...]:
        """The open sequences."""
        return tuple(self._tokens)

    def open_sequence(self) -> int:
        sequence = next(self._numbers)
        self._tokens[sequence], self._blocks[sequence] = [], []
        return sequence

    def close_sequence(self, sequence: int) -> None:
        self._known(sequence)
        del self._tokens[sequence]
        self._release(self._blocks.pop(sequence))

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        held = self._prefix(sequence, n_tokens)
        shared = self._blocks[sequence][: n_tokens // self.block_tokens]
        self._check_free(
            blocks_for(len(shared) * self.block_tokens, n_tokens % self.block_tokens, self.block_tokens)
        )
        fork = self.open_sequence()
        self._tokens[fork] = held
        for block in shared:
            self._users[block] += 1
        self._blocks[fork] = list(shared)
        self._grow(fork)
        return fork

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        held = self._prefix(sequence, n_tokens)
        keep = blocks_for(0, n_tokens, self.block_tokens)
        blocks = self._blocks[sequence]
        if n_tokens % self.block_tokens and self._users[blocks[keep - 1]] > 1:
            # The block that will be written next is shared: it is replaced by a copy.
            self._check_free(1)
            self._release(blocks[keep - 1 :])
            self._blocks[sequence] = blocks[: keep - 1]
        else:
            self._release(blocks[keep:])
            self._blocks[sequence] = blocks[:keep]
        self._tokens[sequence] = held
        self._grow(sequence)

    def sequence_length(self, sequence: int) -> int:
        self._known(sequence)
        return len(self._tokens[sequence])

    def step(self, tokens: Ints, sequences: Ints, outputs: Bools) -> Floats:
        added: dict[int, list[int]] = {}
        for token, sequence in zip(tokens.tolist(), sequences.tolist(), strict=True):
            self._known(sequence)
            added.setdefault(sequence, []).append(token)
        needed = 0
        for sequence, new in added.items():
            length = len(self._tokens[sequence])
            if length + len(new) > self.n_ctx:
                raise BackendError(
                    f"A sequence of {length + len(new)} tokens exceeds the context of {self.n_ctx}."
                )
            needed += blocks_for(length, len(new), self.block_tokens)
        if len(tokens) > self.batch:
            raise BackendError(f"A step of {len(tokens)} tokens exceeds the batch of {self.batch}.")
        self._check_free(needed)
        rows: dict[int, Floats] = {}
        for sequence, new in added.items():
            self._tokens[sequence] += new
            self._grow(sequence)
            if outputs[sequences == sequence].any():
                rows[sequence] = self._model.logits(self._tokens[sequence])[-len(new) :]
        done = dict.fromkeys(added, 0)
        out = np.empty((int(outputs.sum()), self.n_vocab), np.float32)
        row = 0
        for sequence, wanted in zip(sequences.tolist(), outputs.tolist(), strict=True):
            if wanted:
                out[row] = rows[sequence][done[sequence]]
                row += 1
            done[sequence] += 1
        return out

    def hidden(self, tokens: Ints) -> Floats:
        return self._model.hidden(tokens.tolist())

    def close(self) -> None:
        self._tokens.clear()
        self._blocks.clear()
        self._users = dict.fromkeys(self._users, 0)

    def _known(self, sequence: int) -> None:
        if sequence not in self._tokens:
            raise BackendError(f"There is no open sequence {sequence}.")

    def _prefix(self, sequence: int, n_tokens: int) -> list[int]:
        self._known(sequence)
        held = self._tokens[sequence]
        if not 0 <= n_tokens <= len(held):
            raise BackendError(
                f"Sequence {sequence} holds {len(held)} tokens; {n_tokens} of them were asked for."
            )
        kept = 0 if self.recurrent else self._kept_tokens
        if kept is not None and n_tokens < len(held) - kept:
            raise BackendError(f"The first {n_tokens} tokens of sequence {sequence} are no longer held.")
        return held[:n_tokens]

    def _check_free(self, count: int) -> None:
        """Raise BackendError unless `count` blocks are free."""
        if count > self.free_blocks:
            raise BackendError(f"{count} cache blocks are needed and {self.free_blocks} are free.")

    def _grow(self, sequence: int) -> None:
        """Give a sequence the blocks that its tokens need."""
        blocks = self._blocks[sequence]
        free = (block for block, users in self._users.items() if users == 0)
        for _ in range(blocks_for(0, len(self._tokens[sequence]), self.block_tokens) - len(blocks)):
            block = next(free)
            self._users[block] = 1
            blocks.append(block)

    def _release(self, blocks: list[int]) -> None:
        for block in blocks:
            self._users[block] -= 1
