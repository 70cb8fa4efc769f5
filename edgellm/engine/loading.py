"""Loading: from a plan to a loaded backend, with a check of the memory it takes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgellm.backends.base import Backend
from edgellm.device.cores import allowed_cpus, core_speeds
from edgellm.device.memory import available_memory, own_memory
from edgellm.engine.kv_types import cached_bytes
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.planning import LoadPlan, plan
from edgellm.errors import BackendError, MemoryLimitError, pip_install, size_text
from edgellm.gguf.reader import GGUFFile
from edgellm.program.exported import MODEL_FILE, exported_bytes

if TYPE_CHECKING:
    from edgellm.engine.draft_model import DraftModel


class LoadEstimate(NamedTuple):
    """Sizes of a model before it is loaded: context and vocabulary in tokens, threads, bytes by use."""

    n_ctx: int
    n_vocab: int
    threads: int
    memory: dict[str, int]


def estimate(path: Path, options: LoadOptions) -> LoadEstimate:
    """Memory and sizes of a model without loading it. Raises like loading, except for lack of memory."""
    with _measured(path, options) as (planned, memory):
        return LoadEstimate(planned.n_ctx, planned.program.n_vocab, planned.threads, memory)


def memory_needed(path: Path, options: LoadOptions, allowed: int | None) -> int:
    """Bytes that a loaded file takes; MemoryLimitError, with the numbers, if they exceed `allowed`."""
    with _measured(path, options) as (planned, memory):
        _check_memory(planned, memory, allowed)
        return sum(memory.values())


def planned_memory(planned: LoadPlan) -> dict[str, int]:
    """Bytes by use that a planned model takes when it is loaded; its file's header is enough."""
    return _prepare(planned).memory


def reachable_memory() -> int | None:
    """Bytes that this process uses or could use without swapping; None if the system does not say."""
    available, own = available_memory(), own_memory()
    return None if available is None else available + (own or 0)


@contextmanager
def _measured(path: Path, options: LoadOptions) -> Iterator[tuple[LoadPlan, dict[str, int]]]:
    """Plan of a file, and the bytes by use that it takes when it is loaded."""
    with GGUFFile.open(path, guarded=True) as file:
        planned = plan(file, options)
        try:
            yield planned, _prepare(planned).memory
        finally:
            planned.close_draft()


class Loading:
    """A model file whose weights are read and packed on threads of their own.

    Loading begins with the object, so that the caller can import and build other parts at the same time.
    planned: None if the file is opened for its vocabulary alone.
    """

    def __init__(self, path: Path, options: LoadOptions, *, vocab_only: bool = False) -> None:
        """Open and plan the file; raises as GGUFFile.open and `plan` do."""
        self.begun = time.perf_counter()
        self.file = GGUFFile.open(path, guarded=True)
        try:
            self.planned = None if vocab_only else plan(self.file, options)
        except BaseException:
            self.file.close()
            raise
        self._loaded: tuple[Backend, dict[str, int], DraftModel | None] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgellm-load", daemon=True)
        self._thread.start()

    def result(self) -> tuple[Backend, dict[str, int], DraftModel | None] | None:
        """Wait for the backend, its memory by use and the draft model; raises as `load_backend` does."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._loaded

    def abandon(self) -> None:
        """Wait for the end of loading, and close everything."""
        self._thread.join()
        if self._loaded is not None:
            backend, _, draft = self._loaded
            backend.close()
            if draft is not None:
                draft.close()
        if self.planned is not None:
            self.planned.close_draft()
        self.file.close()

    def _run(self) -> None:
        if self.planned is None:
            return
        try:
            backend, memory = load_backend(self.planned)
            try:
                self._loaded = backend, memory, load_draft(self.planned)
            except BaseException:
                backend.close()
                raise
        except BaseException as error:
            self._error = error


def load_draft(planned: LoadPlan) -> DraftModel | None:
    """Load the draft model, if there is one."""
    if planned.draft is None:
        return None
    from edgellm.engine.draft_model import DraftModel

    backend, _ = load_backend(planned.draft)
    files = (planned.file, planned.draft.file)
    n_vocab = min(file.metadata.array_length("tokenizer.ggml.tokens") or 0 for file in files)
    return DraftModel(backend, n_vocab=n_vocab, max_cached=planned.draft.n_cached_sequences)


def load_backend(planned: LoadPlan) -> tuple[Backend, dict[str, int]]:
    """Load the weights; returns the backend and its bytes by use, with those of a draft model.

    Raises MemoryLimitError if the model does not fit, before anything large is allocated.
    """
    memory, load = _prepare(planned)
    _check_memory(planned, memory)
    return load(), memory


def _check_memory(planned: LoadPlan, memory: dict[str, int], available: int | None = None) -> None:
    """Raise MemoryLimitError, with the numbers, if the parts together exceed the allowed memory."""
    limit = planned.options.max_memory
    allowed = limit if limit is not None else available if available is not None else available_memory()
    total = sum(memory.values())
    if allowed is None or total <= allowed:
        return
    parts = " + ".join(f"{name} {size_text(size)}" for name, size in memory.items() if size)
    raise MemoryLimitError(
        f"{planned.file.path}: loading needs {size_text(total)} ({parts}, at a context of {planned.n_ctx} "
        f"tokens) and {size_text(allowed)} {'are allowed' if limit is not None else 'are available'}; "
        f"use a smaller context, a smaller quantization or a smaller model."
    )


class _Prepared(NamedTuple):
    """A backend before loading: its bytes by use, and the function that loads it."""

    memory: dict[str, int]
    load: Callable[[], Backend]


def _prepare(planned: LoadPlan) -> _Prepared:
    """Prepare the backend of a plan, and count the bytes of its draft model."""
    match planned.backend:
        case "interpreter":
            prepared = _prepare_interpreter(planned)
        case "llama_cpp":
            prepared = _prepare_llama_cpp(planned)
        case "onnx":
            prepared = _prepare_onnx(planned)
        case _:
            prepared = _prepare_native(planned)
    if planned.draft is not None:
        prepared.memory["draft"] = sum(_prepare(planned.draft).memory.values())
    return prepared


def _prepare_native(planned: LoadPlan) -> _Prepared:
    try:
        from edgellm.backends.native import NativeBackend
    except ImportError as error:
        raise BackendError(
            f"The native engine cannot be loaded ({error}); install edgellm again with "
            f"{pip_install('.')} in its folder"
        ) from None

    backend = NativeBackend(
        planned.program,
        planned.file,
        threads=planned.threads,
        n_ctx=planned.n_ctx,
        cache_tokens=planned.cache_tokens,
        batch=_batch(planned),
        kv_type=planned.kv_type,
        isa=planned.options.isa,
        adapters=planned.adapters,
        speeds=core_speeds(allowed_cpus()),
    )
    memory = backend.memory()
    # Recurrent states of all sequences that may be open at once.
    memory["states"] = memory.pop("state_per_sequence") * (
        planned.options.parallel + planned.n_cached_sequences
    )
    if not planned.adapters:
        del memory["adapters"]

    def load() -> Backend:
        backend.load()
        return backend

    return _Prepared(memory, load)


def _prepare_llama_cpp(planned: LoadPlan) -> _Prepared:
    def load() -> Backend:
        from edgellm.backends.llama_cpp import LlamaCppBackend

        return LlamaCppBackend(
            planned.program,
            planned.file.path,
            threads=planned.threads,
            n_ctx=planned.n_ctx,
            cache_tokens=planned.cache_tokens,
            batch=_batch(planned),
            kv_type=planned.kv_type,
            n_sequences=planned.options.parallel + planned.n_cached_sequences + 2,
        )

    weights = sum(info.n_bytes for info in planned.file.tensors.values())
    return _Prepared({"weights": weights, "cache": _cache_bytes(planned)}, load)


def _prepare_onnx(planned: LoadPlan) -> _Prepared:
    def load() -> Backend:
        from edgellm.backends.onnx import OnnxBackend

        return OnnxBackend(
            planned.program,
            planned.file.path.with_name(MODEL_FILE),
            threads=planned.threads,
            n_ctx=planned.n_ctx,
            cache_tokens=planned.cache_tokens,
            batch=_batch(planned),
        )

    # ONNX Runtime maps the file, and packs its matrices once more for the CPU.
    weights = 2 * exported_bytes(planned.file.path)
    return _Prepared({"weights": weights, "cache": _cache_bytes(planned)}, load)


def _prepare_interpreter(planned: LoadPlan) -> _Prepared:
    program = planned.program

    def load() -> Backend:
        from edgellm.backends.interpreter import DecodedWeights, InterpreterBackend
        from edgellm.program.interpreter import Interpreter

        return InterpreterBackend(
            Interpreter(program, DecodedWeights(planned.file), adapters=planned.adapters),
            n_vocab=program.n_vocab,
            n_embd=program.width,
            n_ctx=planned.n_ctx,
            recurrent=bool(program.states),
            cache_tokens=planned.cache_tokens,
            batch=_batch(planned),
        )

    memory = {"weights": 4 * sum(math.prod(shape) for shape in program.weights.values())}
    if planned.adapters:
        memory["adapters"] = sum(adapter.n_bytes for adapter in planned.adapters)
    return _Prepared(memory, load)


def _cache_bytes(planned: LoadPlan) -> int:
    """Bytes of the keys and values of a full cache that is one array."""
    per_token = sum(cached_bytes(cache, planned.kv_type) for cache in planned.program.caches)
    return round(planned.cache_tokens * per_token)


def _batch(planned: LoadPlan) -> int:
    """Tokens of a step. An encoder computes a text in one step, because every token attends to all others."""
    if planned.program.is_encoder:
        return max(planned.options.batch, planned.n_ctx)
    return min(planned.options.batch, planned.n_ctx)
