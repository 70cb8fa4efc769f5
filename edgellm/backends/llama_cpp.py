"""llama.cpp as a backend, through the functions of its C API that llama-cpp-python exposes.

All sequences share one cache. Its cells are booked in blocks here, so that an admitted step finds room.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgellm.backends.base import Flags, Floats, Ids, Logits, parts_of
from edgellm.backends.ledger import Booked, Ledger
from edgellm.errors import BackendError, UnsupportedError, pip_install
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.program import Program

try:
    import llama_cpp
except ImportError as error:
    raise BackendError(
        f"The llama_cpp backend needs llama-cpp-python ({error}); install it with "
        f"{pip_install('llama-cpp-python')}"
    ) from None

BLOCK_TOKENS = 32
_NO_POOLING = 0
_ANY_CONTEXT = 2**31 - 1
_ERROR = 4  # GGML_LOG_LEVEL_ERROR


class _Log:
    """Latest error message of llama.cpp; its other messages are dropped."""

    def __init__(self) -> None:
        self.last = ""
        # The library keeps the pointer, so the callback must live as long as the module.
        self._callback = llama_cpp.llama_log_callback(self._take)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p())

    def _take(self, level: int, text: bytes, data: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level == _ERROR and line:
            self.last = line

    def reason(self) -> str:
        """Latest error message in brackets; it is forgotten then."""
        reason, self.last = self.last, ""
        return f" ({reason[:200]})" if reason else ""


_log = _Log()


class LlamaCppBackend(Booked):
    """A GGUF file on llama.cpp, on the CPU.

    threads, n_ctx, cache_tokens, batch, kv_type: as for the native backend. n_sequences: most open sequences.
    Raises UnsupportedError for a model of scores, BackendError if llama.cpp refuses the file or cannot make a
    context.
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
        kv_type: str,
        n_sequences: int,
    ) -> None:
        if program.pooling == "rank":
            raise UnsupportedError(f"{path}: the llama_cpp backend has no scores; use --backend native")
        self.n_vocab = program.n_vocab
        self.n_embd = program.width
        self.n_ctx = n_ctx
        self.batch = batch
        self.recurrent = bool(program.states)
        self.windowed = False  # its caches are never cut, see swa_full below
        self._model: Any = None
        self._context: Any = None
        self._ledger = Ledger(
            n_ctx=n_ctx, cache_tokens=cache_tokens, block_tokens=BLOCK_TOKENS, recurrent=self.recurrent
        )
        n_sequences = min(n_sequences, llama_cpp.llama_max_parallel_sequences())
        self._slots: dict[int, int] = {}
        self._free_slots = list(range(n_sequences))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        overrides = self._overrides(program, path)
        parameters.kv_overrides = overrides
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise BackendError(
                f"{path}: llama.cpp cannot load this file{_log.reason()}; use --backend native, or a newer "
                "llama-cpp-python"
            )
        try:
            self._check_model(path)
            self._context = self._make_context(threads, batch, kv_type, n_sequences)
        except BaseException:
            self.close()
            raise
        self._memory = llama_cpp.llama_get_memory(self._context)

    def _overrides(self, program: Program, path: str | os.PathLike[str]) -> Any:
        """Metadata to read otherwise, ended by an empty entry.

        llama.cpp chooses LongRoPE's factors by the size of the cache, which all sequences share. Those for
        short texts are kept if the context is as short.
        """
        overrides = (llama_cpp.llama_model_kv_override * 2)()
        if "rope_factors_short.weight" in program.weights:
            with GGUFFile.open(path) as file:
                architecture = file.metadata["general.architecture"]
            overrides[0].key = f"{architecture}.rope.scaling.original_context_length".encode()
            overrides[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
            overrides[0].value.val_i64 = _ANY_CONTEXT
        return overrides

    def _check_model(self, path: str | os.PathLike[str]) -> None:
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        found = (
            llama_cpp.llama_vocab_n_tokens(vocabulary),
            llama_cpp.llama_model_n_embd(self._model),
        )
        if found != (self.n_vocab, self.n_embd):
            raise UnsupportedError(
                f"{path}: llama.cpp sees {found[0]} tokens and a width of {found[1]}, expected "
                f"{self.n_vocab} and {self.n_embd}; use --backend native"
            )

    def _make_context(self, threads: int, batch: int, kv_type: str, n_sequences: int) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = self._ledger.n_blocks * BLOCK_TOKENS
        # llama.cpp aborts if a step cannot hold a token of every sequence.
        parameters.n_batch = parameters.n_ubatch = max(batch, n_sequences)
        parameters.n_seq_max = n_sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.pooling_type = _NO_POOLING
        parameters.type_k = parameters.type_v = int(GGMLType[kv_type.upper()])
        parameters.kv_unified = True
        parameters.swa_full = True
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise BackendError(
                f"llama.cpp cannot make a context of {parameters.n_ctx} tokens{_log.reason()}; "
                "use a smaller context or another --kv-type"
            )
        return context

    @property
    def n_undo(self) -> int:
        return 0  # results depend on the number of tokens in a step

    def open_sequence(self, scales: Sequence[float] = ()) -> int:
        if scales:
            raise BackendError("The llama_cpp backend takes no adapters; use --backend native.")
        if not self._free_slots:
            raise BackendError(f"All {len(self._slots)} sequences of llama.cpp's context are open.")
        sequence = self._ledger.open()
        self._slots[sequence] = self._free_slots.pop()
        return sequence

    def close_sequence(self, sequence: int) -> None:
        self._ledger.close(sequence)
        slot = self._slots.pop(sequence)
        self._cut(slot, 0)
        self._free_slots.append(slot)

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        if not self._free_slots:
            raise BackendError(f"All {len(self._slots)} sequences of llama.cpp's context are open.")
        fork = self._ledger.fork(sequence, n_tokens)
        slot = self._slots[fork] = self._free_slots.pop()
        # A recurrent state can only be copied as a whole.
        end = -1 if self.recurrent else n_tokens
        if n_tokens:
            llama_cpp.llama_memory_seq_cp(self._memory, self._slots[sequence], slot, -1, end)
        return fork

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        unchanged = n_tokens == self._ledger.length(sequence)
        self._ledger.truncate(sequence, n_tokens)
        if not unchanged:
            self._cut(self._slots[sequence], n_tokens)

    def step(self, tokens: Ids, sequences: Ids, outputs: Flags, n_largest: int = 0) -> Logits:
        places = self._run(tokens, sequences, outputs)
        rows = np.empty((len(places), self.n_vocab), np.float32)
        for row, place in enumerate(places):
            found = llama_cpp.llama_get_logits_ith(self._context, place)
            rows[row] = np.ctypeslib.as_array(found, (self.n_vocab,))
        return rows.data

    def hidden(self, tokens: Ids, scales: Sequence[float] = (), lengths: Ids = ()) -> Floats:
        if lengths:
            return np.concatenate([self.hidden(part, scales) for part in parts_of(tokens, lengths)])
        rows = np.empty((len(tokens), self.n_embd), np.float32)
        sequence = self.open_sequence(scales)
        llama_cpp.llama_set_embeddings(self._context, True)
        try:
            for start in range(0, len(tokens), self.batch):
                part = tokens[start : start + self.batch]
                for place in self._run(part, [sequence] * len(part), [True] * len(part)):
                    found = llama_cpp.llama_get_embeddings_ith(self._context, place)
                    rows[start + place] = np.ctypeslib.as_array(found, (self.n_embd,))
        finally:
            llama_cpp.llama_set_embeddings(self._context, False)
            self.close_sequence(sequence)
        return rows

    def close(self) -> None:
        self._ledger.clear()
        if self._context:
            llama_cpp.llama_free(self._context)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._context = self._model = None

    def _run(self, tokens: Ids, sequences: Ids, outputs: Flags) -> list[int]:
        """Append the tokens; returns the positions of those with an output."""
        places = self._ledger.check_step(tokens, sequences, outputs, self.batch)
        if any(not 0 <= token < self.n_vocab for token in tokens):
            raise BackendError(f"A token lies outside the vocabulary of {self.n_vocab} tokens.")
        lengths = {sequence: self._ledger.length(sequence) for sequence in places}
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for sequence, indices in places.items():
                for offset, index in enumerate(indices):
                    batch.token[index] = tokens[index]
                    batch.pos[index] = lengths[sequence] + offset
                    batch.n_seq_id[index] = 1
                    batch.seq_id[index][0] = self._slots[sequence]
                    batch.logits[index] = outputs[index]
            status = llama_cpp.llama_decode(self._context, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status:
            for sequence, length in lengths.items():
                self._cut(self._slots[sequence], length)
            raise BackendError(f"llama.cpp could not compute a step{_log.reason()}, status {status}.")
        for sequence, indices in places.items():
            self._ledger.append(sequence, len(indices))
        return [index for index, wanted in enumerate(outputs) if wanted]

    def _cut(self, slot: int, n_tokens: int) -> None:
        # An encoder has no cache.
        if self._memory:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, n_tokens, -1)
