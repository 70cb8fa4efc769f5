"""ONNX Runtime as a backend, for folders that `edgellm convert --format onnx` has written.

Each sequence runs by itself. Its keys and values are in arrays of its own, which attention reads and extends
in place; a truncation changes a length only, and a fork copies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm import _native
from edgellm.backends.base import Flags, Floats, Ids, Ints, Logits, parts_of
from edgellm.backends.ledger import Booked, Ledger
from edgellm.errors import BackendError, FileError, pip_install
from edgellm.program import Program

try:
    import onnxruntime
except ImportError as error:
    raise BackendError(
        f"The onnx backend needs onnxruntime ({error}); install it with {pip_install('onnxruntime')}"
    ) from None

# Earlier versions see past sliding windows, or lack 8-bit embeddings.
_OLDEST = (1, 24)
if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < _OLDEST:
    raise BackendError(
        f"The onnx backend needs onnxruntime {_OLDEST[0]}.{_OLDEST[1]} or newer, found "
        f"{onnxruntime.__version__}; install it with {pip_install('-U', 'onnxruntime')}"
    )

# Arrays grow by this many tokens, and are copied each time.
BLOCK_TOKENS = 64
_QUIET = 4


@dataclass(slots=True, eq=False)
class _Sequence:
    """Keys and values of a sequence, arrays (1, n_kv_heads, capacity, dim), and their binding."""

    arrays: list[Floats] = field(default_factory=list)
    binding: Any = None


class OnnxBackend(Booked):
    """A decoder in ONNX whose attention is GroupQueryAttention.

    threads, n_ctx, cache_tokens, batch: as for the native backend. Raises FileError for missing files,
    BackendError if ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        program: Program,
        path: str | os.PathLike[str],
        *,
        threads: int,
        n_ctx: int,
        cache_tokens: int,
        batch: int,
    ) -> None:
        self.n_vocab = program.n_vocab
        self.n_embd = program.width
        self.n_ctx = n_ctx
        self.batch = batch
        self.recurrent = False
        self.windowed = False
        if not Path(path).is_file():
            raise FileError(f"{path}: there is no such file, expected the model; convert it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        self._path = Path(path)
        self._session = self._guarded(
            lambda: onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        )
        # As much as the model takes is free: constants were unpacked there.
        _native.trim_heap()
        self._shapes = [(1, c.n_kv_heads, 0, c.key_dim) for c in program.caches for _ in ("key", "value")]
        names = [f"{i}.{part}" for i in range(len(program.caches)) for part in ("key", "value")]
        self._past = [f"past_key_values.{name}" for name in names]
        self._present = [f"present.{name}" for name in names]
        self._ledger = Ledger(n_ctx=n_ctx, cache_tokens=cache_tokens, block_tokens=BLOCK_TOKENS, copies=True)
        self._sequences: dict[int, _Sequence] = {}

    @property
    def n_undo(self) -> int:
        return 0

    def open_sequence(self, scales: Sequence[float] = ()) -> int:
        if scales:
            raise BackendError("The onnx backend takes no adapters; merge them when the model is converted.")
        sequence = self._ledger.open()
        self._sequences[sequence] = _Sequence()
        return sequence

    def close_sequence(self, sequence: int) -> None:
        self._ledger.close(sequence)
        del self._sequences[sequence]

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        fork = self._ledger.fork(sequence, n_tokens)
        self._sequences[fork] = _Sequence(self._resized(self._sequences[sequence].arrays, n_tokens, n_tokens))
        return fork

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        self._ledger.truncate(sequence, n_tokens)
        held = self._sequences[sequence]
        self._fit(held, n_tokens, n_tokens)

    def step(self, tokens: Ids, sequences: Ids, outputs: Flags, n_largest: int = 0) -> Logits:
        ids = np.asarray(tokens, np.int32)
        if ((ids < 0) | (ids >= self.n_vocab)).any():
            raise BackendError(f"A token lies outside the vocabulary of {self.n_vocab} tokens.")
        places = self._ledger.check_step(tokens, sequences, outputs, self.batch)
        flags = np.asarray(outputs, np.bool_)
        logits = np.empty((int(flags.sum()), self.n_vocab), np.float32)
        row_of = np.cumsum(flags) - 1
        # Lengths change once all sequences are done; rows past a sequence's length do not count.
        for sequence, listed in places.items():
            indices = np.asarray(listed)
            wanted = np.flatnonzero(flags[indices])
            first = int(wanted[0]) if len(wanted) else len(indices) - 1
            found = self._run(sequence, ids[indices], "logits", len(indices) - first)
            logits[row_of[indices[wanted]]] = found[wanted - first]
        for sequence, listed in places.items():
            self._ledger.append(sequence, len(listed))
        return logits.data

    def hidden(self, tokens: Ids, scales: Sequence[float] = (), lengths: Ids = ()) -> Floats:
        if lengths:
            return np.concatenate([self.hidden(part, scales) for part in parts_of(tokens, lengths)])
        ids = np.asarray(tokens, np.int32)
        sequence = self.open_sequence(scales)
        try:
            rows = []
            for start in range(0, len(ids), self.batch):
                part = ids[start : start + self.batch]
                n = len(part)
                self._ledger.check_step(part.tolist(), [sequence] * n, [True] * n, self.batch)
                rows.append(self._run(sequence, part, "hidden_states", 1))
                self._ledger.append(sequence, len(part))
            return np.concatenate(rows)
        finally:
            self.close_sequence(sequence)

    def close(self) -> None:
        self._ledger.clear()
        self._sequences.clear()
        self._session = None

    def _run(self, sequence: int, tokens: Ints, output: str, n_logits: int) -> Floats:
        """Rows of `output` after computing `tokens`; of logits only the last `n_logits` are computed."""
        held, length = self._sequences[sequence], self._ledger.length(sequence)
        total = length + len(tokens)
        self._fit(held, length, total)
        binding = held.binding
        binding.bind_cpu_input("input_ids", tokens.astype(np.int64)[None])
        binding.bind_cpu_input("attention_mask", np.ones((1, total), np.int64))
        # An input with a default, which only this kind of binding accepts.
        n_kept = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([n_logits], np.int64))
        binding.bind_ortvalue_input("num_logits_to_keep", n_kept)
        binding.bind_output(output)
        self._guarded(lambda: self._session.run_with_iobinding(binding))
        return np.asarray(binding.get_outputs()[-1].numpy()[0])

    def _fit(self, held: _Sequence, length: int, total: int) -> None:
        """Give a sequence arrays for `total` tokens, and keep its first `length`."""
        capacity = -(-total // BLOCK_TOKENS) * BLOCK_TOKENS
        if not held.arrays or held.arrays[0].shape[2] != capacity:
            held.arrays, held.binding = self._resized(held.arrays, length, total), None
        if held.binding is not None:
            return
        held.binding = self._session.io_binding()
        for array, past, present in zip(held.arrays, self._past, self._present, strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            held.binding.bind_ortvalue_input(past, value)
            held.binding.bind_ortvalue_output(present, value)

    def _resized(self, arrays: list[Floats], length: int, total: int) -> list[Floats]:
        capacity = -(-total // BLOCK_TOKENS) * BLOCK_TOKENS
        found = []
        for number, (batch, n_heads, _, dim) in enumerate(self._shapes):
            array: NDArray[np.float32] = np.zeros((batch, n_heads, capacity, dim), np.float32)
            if length:
                array[:, :, :length] = arrays[number][:, :, :length]
            found.append(array)
        return found

    def _guarded(self, work: Any) -> Any:
        """Run `work`; any error of ONNX Runtime, whose classes share no base, becomes BackendError."""
        try:
            return work()
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:300]
            raise BackendError(f"{self._path}: ONNX Runtime cannot run this model ({reason})") from None
