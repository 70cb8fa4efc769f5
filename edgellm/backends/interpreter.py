"""NumPy program interpreter as a backend: recomputes whole sequences, exact and slow.

It follows the rules of a real engine for blocks, forks and recurrent state, so that tests of the layers above
can use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from edgellm.backends.base import Flags, Floats, Ids, Logits, parts_of
from edgellm.backends.ledger import Booked, Ledger
from edgellm.errors import BackendError
from edgellm.gguf.reader import GGUFFile
from edgellm.quant import decode


class SequenceModel(Protocol):
    """Computing side of the backend: takes a whole sequence, returns one row per token, or per position."""

    def logits(self, ids: Sequence[int], scales: Sequence[float], positions: Sequence[int], /) -> Floats: ...

    def hidden(self, ids: Sequence[int], scales: Sequence[float], /) -> Floats: ...


class DecodedWeights(Mapping[str, Floats]):
    """Tensors of a GGUF file as float32, decoded at first use and then kept."""

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


class InterpreterBackend(Booked):
    """A backend over any map from a sequence to rows of logits.

    kept_tokens: a sequence can be truncated by at most this many tokens; None: by any number. copies: forks
    share no blocks.
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
        copies: bool = False,
    ) -> None:
        self._model = model
        self.n_vocab = n_vocab
        self.n_embd = n_embd
        self.n_ctx = n_ctx
        self.recurrent = recurrent
        self.windowed = kept_tokens is not None
        self.batch = batch
        self._ledger = Ledger(
            n_ctx=n_ctx,
            cache_tokens=cache_tokens or n_ctx,
            block_tokens=block_tokens,
            recurrent=recurrent,
            kept_tokens=kept_tokens,
            copies=copies,
        )
        self._tokens: dict[int, list[int]] = {}
        self._scales: dict[int, tuple[float, ...]] = {}

    @property
    def n_undo(self) -> int:
        return self._ledger.n_undo

    @property
    def sequences(self) -> tuple[int, ...]:
        """Open sequences."""
        return self._ledger.sequences

    def open_sequence(self, scales: Sequence[float] = ()) -> int:
        sequence = self._ledger.open()
        self._tokens[sequence], self._scales[sequence] = [], tuple(scales)
        return sequence

    def close_sequence(self, sequence: int) -> None:
        self._ledger.close(sequence)
        del self._tokens[sequence], self._scales[sequence]

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        fork = self._ledger.fork(sequence, n_tokens)
        self._tokens[fork] = self._tokens[sequence][:n_tokens]
        self._scales[fork] = self._scales[sequence]
        return fork

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        self._ledger.truncate(sequence, n_tokens)
        del self._tokens[sequence][n_tokens:]

    @property
    def variant(self) -> str:
        return "interpreter"

    def save_sequence(self, sequence: int) -> bytes:
        return np.asarray(self._tokens[sequence], "<i4").tobytes()

    def restore_sequence(self, saved: bytes, scales: Sequence[float] = ()) -> int:
        sequence = self.open_sequence(scales)
        try:
            self._append_saved(sequence, saved)
        except BackendError:
            self.close_sequence(sequence)
            raise
        return sequence

    def save_blocks(self, sequence: int, first: int, n_blocks: int) -> bytes:
        tokens = self._tokens[sequence][first * self.block_tokens : (first + n_blocks) * self.block_tokens]
        if self.recurrent or self.windowed or len(tokens) != n_blocks * self.block_tokens:
            raise BackendError(f"The sequence has no {n_blocks} full blocks from block {first} on.")
        return np.asarray(tokens, "<i4").tobytes()

    def append_blocks(self, sequence: int, saved: bytes) -> None:
        if self.recurrent or self.windowed or self.sequence_length(sequence) % self.block_tokens:
            raise BackendError("Saved blocks continue sequences of full blocks only.")
        if len(saved) % (4 * self.block_tokens):
            raise BackendError("The saved blocks do not fit the model.")
        self._append_saved(sequence, saved)

    def _append_saved(self, sequence: int, saved: bytes) -> None:
        """Append tokens that were saved as bytes; BackendError if they are none or do not fit."""
        if len(saved) % 4:
            raise BackendError("The saved sequence does not fit the model.")
        tokens: list[int] = np.frombuffer(saved, "<i4").tolist()
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.n_vocab:
            raise BackendError("The saved sequence does not fit the model.")
        n_tokens = len(tokens)
        self._ledger.check_step(tokens, [sequence] * n_tokens, [False] * n_tokens, n_tokens)
        self._ledger.append(sequence, n_tokens)
        self._tokens[sequence] += tokens

    def step(self, tokens: Ids, sequences: Ids, outputs: Flags, n_largest: int = 0) -> Logits:
        places = self._ledger.check_step(tokens, sequences, outputs, self.batch)
        out = np.empty((sum(outputs), self.n_vocab), np.float32)
        row_of = np.cumsum(outputs) - 1
        for sequence, indices in places.items():
            self._ledger.append(sequence, len(indices))
            self._tokens[sequence] += [tokens[index] for index in indices]
            tokens_so_far = self._tokens[sequence]
            first = len(tokens_so_far) - len(indices)
            positions = [first + i for i, index in enumerate(indices) if outputs[index]]
            if positions:
                rows = self._model.logits(tokens_so_far, self._scales[sequence], positions)
                out[[row_of[index] for index in indices if outputs[index]]] = rows
        return out.data

    def hidden(self, tokens: Ids, scales: Sequence[float] = (), lengths: Ids = ()) -> Floats:
        parts = parts_of(tokens, lengths) if lengths else [tokens]
        return np.concatenate([self._model.hidden(part, scales) for part in parts])

    def close(self) -> None:
        self._ledger.clear()
        self._tokens.clear()
        self._scales.clear()
