"""From a model file to a loaded backend: the program, the context, the memory check, the weights."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgellm.backends.base import Backend
from edgellm.device.cores import default_threads
from edgellm.device.memory import available_memory, own_memory
from edgellm.engine.adapters import AdapterFile, read_adapter
from edgellm.errors import BackendError, EdgeLLMError, MemoryLimitError, ModelError, UsageError
from edgellm.families import build, trained_context
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.program import Program
from edgellm.program.exported import MODEL_FILE, exported_bytes, is_exported

if TYPE_CHECKING:
    from edgellm.backends.native import NativeBackend
    from edgellm.engine.draft_model import DraftModel
    from edgellm.program.adapter import Adapter

# Without being asked, a model gets this much context at most: memory for a long one is rarely what is wanted.
DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 256
DEFAULT_PARALLEL = 4
DEFAULT_WAITING = 256
# With the token they follow they make eight, which the kernels for few tokens take at once.
DEFAULT_DRAFT_MAX = 7
BACKENDS = ("auto", "native", "onnx", "llama_cpp", "interpreter")
WITH_ADAPTERS = ("auto", "native", "interpreter")
KV_TYPES = ("auto", "f32", "f16", "q8_0")
MIB = 1024 * 1024
MAX_PARKED = 32
STATES_BYTES = 128 * MIB


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    threads: None takes the physical cores this process may use. context: tokens; None takes the trained
    context or 4096, whichever is less (of a LongRoPE model at most the one before it was stretched); 0 takes
    the trained context. cache_tokens: tokens that all sequences together may hold; None: as many as
    `cache_contexts` contexts. parallel: answers that may be under way at once. max_waiting: further ones that
    may wait. batch: tokens per step. kv_type: how keys and values are kept: "f32", "f16", "q8_0", or "auto":
    f16, and f32 where all weights are. isa: the instruction set to use, "" for the best. draft_max: tokens
    that one step may guess ahead for one answer (None: 7, 0: none); answers do not depend on it. draft: the
    file of a smaller model of the same vocabulary that guesses, too. max_memory: bytes that may be used;
    None: what is available. lora: adapters to load, and the factors that answers use unless they ask for
    others. Raises UsageError for a value out of range.
    """

    threads: int | None = None
    context: int | None = None
    cache_tokens: int | None = None
    cache_contexts: int = 1
    parallel: int = DEFAULT_PARALLEL
    max_waiting: int = DEFAULT_WAITING
    batch: int = DEFAULT_BATCH
    kv_type: str = "auto"
    backend: str = "auto"
    isa: str = ""
    draft_max: int | None = None
    draft: Path | None = None
    max_memory: int | None = None
    lora: tuple[AdapterFile, ...] = ()

    def __post_init__(self) -> None:
        for name, low in (
            ("threads", 1),
            ("context", 0),
            ("cache_tokens", 1),
            ("cache_contexts", 1),
            ("parallel", 1),
            ("max_waiting", 1),
            ("batch", 1),
            ("draft_max", 0),
            ("max_memory", 1),
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise UsageError(f"{name} is {value!r}; it must be an integer of at least {low}.")
        if self.draft is not None and self.draft_max == 0:
            raise UsageError("draft is given and draft_max is 0; a draft model needs tokens to guess.")
        if self.kv_type not in KV_TYPES:
            raise UsageError(f"kv_type is {self.kv_type!r}; the types are {', '.join(KV_TYPES)}.")
        if self.backend not in BACKENDS:
            raise UsageError(f"backend is {self.backend!r}; the backends are {', '.join(BACKENDS)}.")
        if self.lora and self.backend not in WITH_ADAPTERS:
            raise UsageError(
                f"lora needs one of the backends {', '.join(WITH_ADAPTERS)}, and it is {self.backend}."
            )


class Plan(NamedTuple):
    """A model file that is ready to be loaded: everything but the weights."""

    file: GGUFFile
    program: Program
    options: LoadOptions
    n_ctx: int
    threads: int
    adapters: tuple[Adapter, ...] = ()
    draft: Plan | None = None

    @property
    def no_guesses(self) -> str | None:
        """Why no tokens can be guessed ahead, if they cannot."""
        if self.program.states:
            return f"{self.program.family} models cannot take tokens back"
        if self.backend != "native":
            return f"on the backend {self.backend} the answers could depend on it"
        return None

    def close_draft(self) -> None:
        """Close the draft model's file."""
        if self.draft is not None:
            self.draft.file.close()

    @property
    def backend(self) -> str:
        """The engine; for "auto" that of the file's form."""
        if self.options.backend != "auto":
            return self.options.backend
        return "onnx" if is_exported(self.file.metadata) else "native"

    @property
    def kv_type(self) -> str:
        """The cache's type; for "auto": an f16 cache would lose digits that a model of f32 weights has."""
        if is_exported(self.file.metadata):
            return "f32"
        if self.options.kv_type != "auto":
            return self.options.kv_type
        types = {self.file.tensors[name].type for name in self.program.weights}
        return "f32" if types == {GGMLType.F32} else "f16"

    @property
    def cache_tokens(self) -> int:
        """Tokens that all sequences together may hold: one whole context at least."""
        return max(self.options.cache_tokens or self.options.cache_contexts * self.n_ctx, self.n_ctx)

    @property
    def n_parked(self) -> int:
        """Finished sequences to keep; recurrent states take memory of their own, so fewer of those."""
        state_bytes = 4 * sum(state.size for state in self.program.states)
        return max(2, min(MAX_PARKED, STATES_BYTES // state_bytes)) if state_bytes else MAX_PARKED


def plan(file: GGUFFile, options: LoadOptions) -> Plan:
    """Build the program of a file, settle its context and read its adapters; plan its draft model likewise.

    Raises UsageError if the context exceeds the trained one or the draft model is unsuitable, and what
    `read_adapter` does.
    """
    shapes = {name: info.shape for name, info in file.tensors.items()}
    n_ctx = options.context
    try:
        trained = trained_context(file.metadata)
        if n_ctx is None:
            n_ctx = default_context(file, trained)
        elif n_ctx == 0:
            n_ctx = trained
        elif n_ctx > trained:
            raise UsageError(
                f"a context of {n_ctx} tokens was asked for and the model was trained on {trained}; "
                f"ask for at most {trained}."
            )
        program = build(file.metadata, shapes, context=n_ctx)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None
    _check_backend(file, options)
    if not is_exported(file.metadata):
        _check_tensors(file, program)
    adapters = tuple(read_adapter(adapter.path, file, program) for adapter in options.lora)
    planned = Plan(file, program, options, n_ctx, options.threads or default_threads(), adapters)
    if options.draft is None or planned.no_guesses is not None:
        return planned
    return _plan_draft(planned, options.draft)


def _plan_draft(planned: Plan, path: Path) -> Plan:
    """The plan with this file's model as its draft model; UsageError if it cannot guess for the other."""
    from edgellm.tokenizer.compare import difference

    file = GGUFFile.open(path)
    try:
        reason = difference(planned.file.metadata, file.metadata)
        if reason is not None:
            raise UsageError(
                f"{path} cannot be the draft model of {planned.file.path}: {reason}; "
                "take one of the same vocabulary."
            )
        trained = trained_context(file.metadata)
        options = replace(planned.options, draft=None, lora=(), context=min(planned.n_ctx, trained))
        draft = plan(file, options)
        reason = draft.no_guesses
        if draft.program.logits is None:
            reason = f"{draft.program.family} models generate nothing"
        if reason is not None:
            raise UsageError(f"{path} cannot be a draft model: {reason}; take another.")
    except BaseException:
        file.close()
        raise
    return planned._replace(draft=draft)


def vocabulary_difference(path: Path, draft: Path) -> str | None:
    """What keeps the second file from being a draft model of the first, if their vocabularies differ."""
    from edgellm.tokenizer.compare import difference

    with GGUFFile.open(path) as file, GGUFFile.open(draft) as other:
        return difference(file.metadata, other.metadata)


class Prospect(NamedTuple):
    """What a model will be once it is loaded: tokens of its context and vocabulary, threads, bytes by use."""

    n_ctx: int
    n_vocab: int
    threads: int
    memory: dict[str, int]


def foresee(path: Path, options: LoadOptions) -> Prospect:
    """What loading a file would come to; raises as loading does, but for want of memory."""
    with _measured(path, options) as (planned, memory):
        return Prospect(planned.n_ctx, planned.program.n_vocab, planned.threads, memory)


def memory_needed(path: Path, options: LoadOptions, allowed: int | None) -> int:
    """The bytes that a file takes when it is loaded; MemoryLimitError, with the numbers, beyond `allowed`."""
    with _measured(path, options) as (planned, memory):
        check_memory(planned, memory, allowed)
        return sum(memory.values())


@contextmanager
def _measured(path: Path, options: LoadOptions) -> Iterator[tuple[Plan, dict[str, int]]]:
    """A file's plan, and the bytes by use that it takes when it is loaded."""
    with GGUFFile.open(path) as file:
        planned = plan(file, options)
        try:
            yield planned, _memory_of(planned) | _draft_memory(planned)
        finally:
            planned.close_draft()


def _memory_of(planned: Plan) -> dict[str, int]:
    match planned.backend:
        case "interpreter":
            return _interpreter_memory(planned)
        case "llama_cpp":
            return _llama_cpp_memory(planned)
        case "onnx":
            return _onnx_memory(planned)
        case _:
            return _memory(planned, _plan_native(planned).memory())


def _draft_memory(planned: Plan) -> dict[str, int]:
    """What the draft model takes in all, if there is one."""
    return {} if planned.draft is None else {"draft": sum(_memory_of(planned.draft).values())}


def reachable_memory() -> int | None:
    """The bytes that this process has or could have without swapping; None where the system does not say."""
    available, own = available_memory(), own_memory()
    return None if available is None else available + (own or 0)


def default_context(file: GGUFFile, trained: int) -> int:
    """Tokens of context without being asked: a LongRoPE model keeps to what its short factors are for."""
    n_ctx = min(trained, DEFAULT_CONTEXT)
    original = file.metadata.get(
        f"{file.metadata['general.architecture']}.rope.scaling.original_context_length"
    )
    if "rope_factors_short.weight" in file.tensors and isinstance(original, int):
        n_ctx = min(n_ctx, original)
    return n_ctx


class Loading:
    """A model file whose weights are being read and packed, on threads of their own.

    It begins when it is made, so that what is to use the model can be imported and made meanwhile. `planned`
    is None where the file is opened for its vocabulary alone.
    """

    def __init__(self, path: Path, options: LoadOptions, *, vocab_only: bool = False) -> None:
        """Opens and plans the file: raises what GGUFFile.open and `plan` do."""
        self.begun = time.perf_counter()
        self.file = GGUFFile.open(path)
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
        """Wait for the backend, its memory by use and the draft model; raises what `load_backend` does."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._loaded

    def abandon(self) -> None:
        """Wait for the end, and close everything again."""
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


def load_draft(planned: Plan) -> DraftModel | None:
    """Load the draft model, if there is one."""
    if planned.draft is None:
        return None
    from edgellm.engine.draft_model import DraftModel

    backend, _ = load_backend(planned.draft)
    files = (planned.file, planned.draft.file)
    n_vocab = min(file.metadata.array_length("tokenizer.ggml.tokens") or 0 for file in files)
    return DraftModel(backend, n_vocab=n_vocab, max_parked=planned.draft.n_parked)


def load_backend(planned: Plan) -> tuple[Backend, dict[str, int]]:
    """Load the weights; returns the backend and the bytes it takes, by use, with those of a draft model.

    Raises MemoryLimitError, before anything large is allocated, if the model does not fit.
    """
    match planned.backend:
        case "interpreter":
            return _load_interpreter(planned)
        case "llama_cpp":
            return _load_llama_cpp(planned)
        case "onnx":
            return _load_onnx(planned)
        case _:
            return _load_native(planned)


def _load_native(planned: Plan) -> tuple[Backend, dict[str, int]]:
    backend = _plan_native(planned)
    memory = _memory(planned, backend.memory()) | _draft_memory(planned)
    check_memory(planned, memory)
    backend.load()
    return backend, memory


def _plan_native(planned: Plan) -> NativeBackend:
    """The engine without its weights."""
    try:
        from edgellm.backends.native import NativeBackend
    except ImportError as error:
        raise BackendError(
            f"The native engine cannot be loaded ({error}); install edgellm again with `pip install .`"
        ) from None

    options = planned.options
    return NativeBackend(
        planned.program,
        planned.file,
        threads=planned.threads,
        n_ctx=planned.n_ctx,
        cache_tokens=planned.cache_tokens,
        batch=_batch(planned),
        kv_type=planned.kv_type,
        isa=options.isa,
        adapters=planned.adapters,
    )


def _memory(planned: Plan, engine: dict[str, int]) -> dict[str, int]:
    """Bytes by use, with the recurrent states of all sequences that may be open at once."""
    per_sequence = engine.pop("state_per_sequence")
    if not planned.adapters:
        del engine["adapters"]
    return {**engine, "states": per_sequence * (planned.options.parallel + planned.n_parked)}


def _load_llama_cpp(planned: Plan) -> tuple[Backend, dict[str, int]]:
    from edgellm.backends.llama_cpp import LlamaCppBackend

    memory = _llama_cpp_memory(planned)
    check_memory(planned, memory)
    backend = LlamaCppBackend(
        planned.program,
        planned.file.path,
        threads=planned.threads,
        n_ctx=planned.n_ctx,
        cache_tokens=planned.cache_tokens,
        batch=_batch(planned),
        kv_type=planned.kv_type,
        n_sequences=planned.options.parallel + planned.n_parked + 2,
    )
    return backend, memory


def _llama_cpp_memory(planned: Plan) -> dict[str, int]:
    weights = sum(info.n_bytes for info in planned.file.tensors.values())
    return {"weights": weights, "cache": _cache_bytes(planned, GGMLType[planned.kv_type.upper()])}


def _load_onnx(planned: Plan) -> tuple[Backend, dict[str, int]]:
    from edgellm.backends.onnx import OnnxBackend

    memory = _onnx_memory(planned)
    check_memory(planned, memory)
    backend = OnnxBackend(
        planned.program,
        planned.file.path.with_name(MODEL_FILE),
        threads=planned.threads,
        n_ctx=planned.n_ctx,
        cache_tokens=planned.cache_tokens,
        batch=_batch(planned),
    )
    return backend, memory


def _onnx_memory(planned: Plan) -> dict[str, int]:
    # ONNX Runtime maps the file, and packs its matrices anew for the CPU.
    return {
        "weights": 2 * exported_bytes(planned.file.path),
        "cache": _cache_bytes(planned, GGMLType[planned.kv_type.upper()]),
    }


def _cache_bytes(planned: Plan, kind: GGMLType) -> int:
    """Bytes of the keys and values of all tokens that the cache may hold, where it is one array."""
    per_token = sum(c.n_kv_heads * (c.key_dim + c.value_dim) for c in planned.program.caches)
    layout = LAYOUTS[kind]
    return planned.cache_tokens * per_token * layout.block_bytes // layout.block_size


def _load_interpreter(planned: Plan) -> tuple[Backend, dict[str, int]]:
    from edgellm.backends.interpreter import DecodedWeights, InterpreterBackend
    from edgellm.program.interpreter import Interpreter

    program = planned.program
    memory = _interpreter_memory(planned) | _draft_memory(planned)
    check_memory(planned, memory)
    backend = InterpreterBackend(
        Interpreter(program, DecodedWeights(planned.file), adapters=planned.adapters),
        n_vocab=program.n_vocab,
        n_embd=program.width,
        n_ctx=planned.n_ctx,
        recurrent=bool(program.states),
        cache_tokens=planned.cache_tokens,
        batch=_batch(planned),
    )
    return backend, memory


def _interpreter_memory(planned: Plan) -> dict[str, int]:
    memory = {"weights": 4 * sum(math.prod(shape) for shape in planned.program.weights.values())}
    if planned.adapters:
        memory["adapters"] = sum(adapter.n_bytes for adapter in planned.adapters)
    return memory


def _batch(planned: Plan) -> int:
    """Tokens per step: an encoder reads a whole text at once, because every token sees every other."""
    if planned.program.logits is None:
        return planned.n_ctx
    return min(planned.options.batch, planned.n_ctx)


def check_memory(planned: Plan, memory: dict[str, int], available: int | None = None) -> None:
    """Raise MemoryLimitError, with the numbers, if the parts together exceed what may be used."""
    limit = planned.options.max_memory
    allowed = limit if limit is not None else available if available is not None else available_memory()
    total = sum(memory.values())
    if allowed is None or total <= allowed:
        return
    parts = " + ".join(f"{name} {size / MIB:.0f} MiB" for name, size in memory.items() if size)
    raise MemoryLimitError(
        f"{planned.file.path}: loading needs {total / MIB:.0f} MiB ({parts}, at a context of {planned.n_ctx} "
        f"tokens) and {allowed / MIB:.0f} MiB {'are allowed' if limit is not None else 'are available'}; "
        f"use a smaller context, a smaller quantization or a smaller model."
    )


def _check_backend(file: GGUFFile, options: LoadOptions) -> None:
    """Raises UsageError where engine and file, or form and options, do not go together."""
    exported = is_exported(file.metadata)
    if exported and options.backend not in ("auto", "onnx"):
        raise UsageError(
            f"{file.path.parent}: holds a model in ONNX form, which the {options.backend} backend cannot "
            "run; use --backend onnx"
        )
    if exported and options.kv_type not in ("auto", "f32"):
        raise UsageError(
            f"{file.path.parent}: a model in ONNX form keeps its cache in f32, expected --kv-type f32 "
            f"or auto, not {options.kv_type}"
        )
    if exported and options.lora:
        raise UsageError(
            f"{file.path.parent}: a model in ONNX form takes no adapters; merge them with "
            "`edgellm convert CHECKPOINT FOLDER --format onnx --lora ADAPTER`"
        )
    if options.backend == "onnx" and not exported:
        raise UsageError(
            f"{file.path}: is a GGUF file, and the onnx backend runs folders in ONNX form; make one with "
            "`edgellm convert FILE FOLDER --format onnx`"
        )


def _check_tensors(file: GGUFFile, program: Program) -> None:
    for name, shape in program.weights.items():
        info = file.tensors.get(name)
        if info is None:
            raise ModelError(
                f"{file.path}: tensor {name} is missing, and {program.family} models need it; "
                f"fetch the file again."
            )
        if math.prod(info.shape) != math.prod(shape):
            raise ModelError(
                f"{file.path}: tensor {name} has shape {info.shape}, and {program.family} models need "
                f"{shape}; fetch or convert the file again."
            )
