"""Native engine as a backend."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgellm import _native
from edgellm.backends.base import Flags, Floats, Ids, Logits
from edgellm.errors import BackendError, ModelError, NoMemoryError
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.program import Program, to_text
from edgellm.program.adapter import Adapter, Half, Update

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]


def faster_kv_type(isa: str = "") -> str:
    """Faster 16-bit cache type on an instruction set ("": the one in use)."""
    return _native.faster_kv_type(_chosen_isa(isa))


def _chosen_isa(isa: str) -> str:
    return isa or os.environ.get("EDGELLM_ISA") or _native.best_isa()


class NativeBackend:
    """A planned model on the native engine; `load` loads its weights.

    threads: of the pool. n_ctx: longest sequence. cache_tokens: tokens that all sequences together can hold.
    batch: tokens of a step. kv_type: type of cached keys and values. isa: instruction set; "" for the one
    that EDGELLM_ISA names, or else the best of this CPU. adapters: those that sequences may use. speeds: of
    the CPUs that the process may use, relative to each other; empty: they are alike. Raises ModelError if the
    engine refuses the program, BackendError if it refuses an option.
    """

    def __init__(
        self,
        program: Program,
        file: GGUFFile,
        *,
        threads: int,
        n_ctx: int,
        cache_tokens: int,
        batch: int,
        kv_type: str,
        isa: str = "",
        adapters: Sequence[Adapter] = (),
        speeds: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        self.n_vocab = program.n_vocab
        self.n_embd = program.width
        self.n_ctx = n_ctx
        self.batch = batch
        self.recurrent = bool(program.states)
        self.windowed = any(cache.window for cache in program.caches)
        self.isa = _chosen_isa(isa)
        self._file = file
        self._weights = [(name, int(file.tensors[name].type)) for name in program.weights]
        with self._translated():
            self._engine = _native.Engine(
                to_text(program),
                self._weights,
                threads=threads,
                context=n_ctx,
                cache_tokens=cache_tokens,
                batch=batch,
                kv_type=kv_type,
                isa=self.isa,
                speeds=list(speeds.items()),
            )
            for adapter in adapters:
                self._engine.add_adapter(list(map(raw_update, adapter.updates.items())))
        self.block_tokens = self._engine.block_tokens
        self.n_blocks = cache_tokens // self.block_tokens

    def memory(self) -> dict[str, int]:
        """Bytes: weights, cache, scratch, adapters, and state_per_sequence; known before `load`."""
        return self._engine.memory()

    def load(self, *, release: bool = True) -> None:
        """Pack the weights; with `release` the system may drop file pages that have been read."""
        with self._translated():
            self._engine.load(
                [(name, number, self._file.view(name)) for name, number in self._weights], release
            )
        self._file.check()
        self.n_blocks = self.free_blocks

    @property
    def free_blocks(self) -> int:
        return self._engine.free_tokens // self.block_tokens

    @property
    def n_undo(self) -> int:
        if self.recurrent:
            return 0
        return _native.WINDOW_SLACK if self.windowed else self.n_ctx

    def open_sequence(self, scales: Sequence[float] = ()) -> int:
        with self._translated():
            return self._engine.open_sequence(list(scales))

    def close_sequence(self, sequence: int) -> None:
        with self._translated():
            self._engine.close_sequence(sequence)

    def fork_blocks(self, n_tokens: int) -> int:
        # A fork shares full blocks and copies a partly filled last one.
        return 1 if n_tokens % self.block_tokens else 0

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        fork = self._engine.fork_sequence(sequence, n_tokens)
        if fork < 0:
            raise BackendError(f"The first {n_tokens} tokens of the sequence are no longer held.")
        return fork

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        if not self._engine.truncate_sequence(sequence, n_tokens):
            raise BackendError(f"The first {n_tokens} tokens of the sequence are no longer held.")

    def sequence_length(self, sequence: int) -> int:
        with self._translated():
            return self._engine.sequence_length(sequence)

    @property
    def variant(self) -> str:
        return f"native {self.isa}"

    def save_sequence(self, sequence: int) -> bytes:
        with self._translated():
            return self._engine.save_sequence(sequence)

    def restore_sequence(self, saved: bytes, scales: Sequence[float] = ()) -> int:
        sequence = self._engine.restore_sequence(saved, list(scales))
        if sequence < 0:
            raise BackendError("The saved sequence does not fit the model, or the cache has no room for it.")
        return sequence

    def save_blocks(self, sequence: int, first: int, n_blocks: int) -> bytes:
        with self._translated():
            saved = self._engine.save_blocks(sequence, first, n_blocks)
        if not saved:
            raise BackendError(f"The sequence has no {n_blocks} full blocks from block {first} on.")
        return saved

    def append_blocks(self, sequence: int, saved: bytes) -> None:
        with self._translated():
            fits = self._engine.append_blocks(sequence, saved)
        if not fits:
            raise BackendError("The saved blocks do not fit the model, or the cache has no room for them.")

    def step(self, tokens: Ids, sequences: Ids, outputs: Flags, n_largest: int = 0) -> Logits:
        with self._translated():
            logits = self._engine.step(array("i", tokens), array("i", sequences), bytes(outputs), n_largest)
        if self._file.torn:
            self._file.check()
        return logits

    @property
    def unread_bytes(self) -> int:
        return self._engine.unread_bytes

    def hidden(self, tokens: Ids, scales: Sequence[float] = (), lengths: Ids = ()) -> Floats:
        import numpy as np

        with self._translated():
            hidden = np.asarray(
                self._engine.hidden(array("i", tokens), list(scales), list(lengths)), np.float32
            )
        self._file.check()
        return hidden

    def close(self) -> None:
        del self._engine

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Put the file's name before the extension's errors, and raise them as the package's own."""
        try:
            yield
        except _native.ModelError as error:
            raise ModelError(f"{self._file.path}: {error}") from error
        except MemoryError as error:
            raise NoMemoryError(f"{self._file.path}: this model") from error
        except (RuntimeError, ValueError) as error:
            raise BackendError(str(error)) from error


def _raw(half: Half) -> tuple[int, Bytes]:
    import numpy as np

    kind = GGMLType.F16 if half.dtype == np.float16 else GGMLType.F32
    return int(kind), np.ascontiguousarray(half).reshape(-1).view(np.uint8)


def raw_update(item: tuple[str, Update]) -> tuple[str, int, int, Bytes, int, Bytes, float]:
    """Name and update of a weight in the form of the extension."""
    name, update = item
    (a_type, a), (b_type, b) = _raw(update.a), _raw(update.b)
    return name, len(update.a), a_type, a, b_type, b, update.scale
