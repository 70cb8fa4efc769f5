"""The native engine as a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from edgellm import _native
from edgellm.backends.base import Bools, Floats, Ints
from edgellm.errors import BackendError
from edgellm.gguf.reader import GGUFFile
from edgellm.program import Program, to_text


class NativeBackend:
    """A planned, and after `load` a loaded, model on the native engine.

    threads: of the pool. n_ctx: the longest sequence. cache_tokens: tokens that all sequences together can
    hold. batch: tokens per step. kv_type: how the cache stores keys and values. isa: an instruction set, or
    "" for the best that this CPU has. Raises BackendError if the engine refuses the program or an option.
    """

    def __init__(
        self,
        program: Program,
        *,
        threads: int,
        n_ctx: int,
        cache_tokens: int,
        batch: int,
        kv_type: str,
        isa: str = "",
    ) -> None:
        self.n_vocab = program.n_vocab
        self.n_embd = program.width
        self.n_ctx = n_ctx
        self.batch = batch
        self.recurrent = bool(program.states)
        self._weights = tuple(program.weights)
        with _translated():
            self._engine = _native.Engine(
                to_text(program),
                threads=threads,
                context=n_ctx,
                cache_tokens=cache_tokens,
                batch=batch,
                kv_type=kv_type,
                isa=isa,
            )
            self.block_tokens: int = self._engine.block_tokens
            self.n_blocks: int = self._engine.free_blocks

    def memory(self) -> dict[str, int]:
        """Bytes by use: weights, cache, scratch."""
        with _translated():
            return self._engine.memory()

    def load(self, file: GGUFFile, release: Callable[[str], None] | None) -> None:
        """Pack the program's weights out of a file; `release` is told when a tensor's bytes are done with."""
        with _translated():
            self._engine.load(
                [(name, int(file.tensors[name].type), file.data(name)) for name in self._weights], release
            )

    @property
    def free_blocks(self) -> int:
        return self._engine.free_blocks

    def open_sequence(self) -> int:
        with _translated():
            return self._engine.open_sequence()

    def close_sequence(self, sequence: int) -> None:
        with _translated():
            self._engine.close_sequence(sequence)

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        with _translated():
            return self._engine.fork_sequence(sequence, n_tokens)

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        with _translated():
            self._engine.truncate_sequence(sequence, n_tokens)

    def sequence_length(self, sequence: int) -> int:
        with _translated():
            return self._engine.sequence_length(sequence)

    def step(self, tokens: Ints, sequences: Ints, outputs: Bools) -> Floats:
        with _translated():
            return self._engine.step(tokens, sequences, outputs)

    def hidden(self, tokens: Ints) -> Floats:
        with _translated():
            return self._engine.hidden(np.ascontiguousarray(tokens))

    def close(self) -> None:
        with _translated():
            self._engine.close()


@contextmanager
def _translated() -> Iterator[None]:
    """The extension raises RuntimeError and ValueError with a sentence."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise BackendError(str(error)) from error
