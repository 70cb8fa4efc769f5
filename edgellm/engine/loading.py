"""From a model file to a loaded backend: the program, the context, the memory check, the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgellm.backends.base import Backend
from edgellm.device.cores import default_threads
from edgellm.device.memory import available_memory
from edgellm.errors import EdgeLLMError, MemoryLimitError, ModelError, UsageError
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.program import Program

# Without being asked, a model gets this much context at most: memory for a long one is rarely what is wanted.
DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 256
BACKENDS = ("native", "interpreter")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    threads: None takes the physical cores this process may use. context: tokens; None takes the trained
    context or 4096, whichever is less; 0 takes the trained context. cache_tokens: tokens that all sequences
    together may hold; None: one context. batch: tokens per step. kv_type: "f16", "f32" or "q8_0".
    isa: the instruction set to use, "" for the best. max_memory: bytes that may be used; None: what is
    available. Raises UsageError for a value out of range.
    """

    threads: int | None = None
    context: int | None = None
    cache_tokens: int | None = None
    batch: int = DEFAULT_BATCH
    kv_type: str = "f16"
    backend: str = "native"
    isa: str = ""
    max_memory: int | None = None

    def __post_init__(self) -> None:
        for name, low in (
            ("threads", 1),
            ("context", 0),
            ("cache_tokens", 1),
            ("batch", 1),
            ("max_memory", 1),
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise UsageError(f"{name} is {value!r}; it must be an integer of at least {low}.")
        if self.backend not in BACKENDS:
            raise UsageError(f"backend is {self.backend!r}; the backends are {', '.join(BACKENDS)}.")


@dataclass(frozen=True, slots=True)
class Plan:
    """A model file that is ready to be loaded: everything but the weights."""

    file: GGUFFile
    program: Program
    options: LoadOptions
    n_ctx: int
    threads: int


def plan(file: GGUFFile, options: LoadOptions) -> Plan:
    """Build the program of a file and settle its context; UsageError if that exceeds the trained one."""
    shapes = {name: info.shape for name, info in file.tensors.items()}
    try:
        program = build(file.metadata, shapes, context=options.context or None)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None
    trained = program.n_ctx_train
    n_ctx = options.context
    if n_ctx is None:
        n_ctx = min(trained, DEFAULT_CONTEXT)
    elif n_ctx == 0:
        n_ctx = trained
    elif n_ctx > trained:
        raise UsageError(
            f"{file.path}: a context of {n_ctx} tokens was asked for and the model was trained on {trained}; "
            f"ask for at most {trained}."
        )
    _check_tensors(file, program)
    return Plan(file, program, options, n_ctx, options.threads or default_threads())


def load_backend(planned: Plan) -> tuple[Backend, dict[str, int]]:
    """Load the weights; returns the backend and the bytes it takes, by use.

    Raises MemoryLimitError, before anything large is allocated, if the model does not fit.
    """
    if planned.options.backend == "interpreter":
        return _load_interpreter(planned)
    return _load_native(planned)


def _load_native(planned: Plan) -> tuple[Backend, dict[str, int]]:
    from edgellm.backends.native import NativeBackend

    options = planned.options
    backend = NativeBackend(
        planned.program,
        threads=planned.threads,
        n_ctx=planned.n_ctx,
        cache_tokens=max(options.cache_tokens or planned.n_ctx, planned.n_ctx),
        batch=_batch(planned),
        kv_type=options.kv_type,
        isa=options.isa,
    )
    memory = backend.memory()
    # Before the weights are packed their size is that of the file's tensors, which packing keeps.
    memory["weights"] = sum(planned.file.tensors[name].n_bytes for name in planned.program.weights)
    check_memory(planned, memory)
    backend.load(planned.file, planned.file.release)
    return backend, backend.memory()


def _load_interpreter(planned: Plan) -> tuple[Backend, dict[str, int]]:
    from edgellm.backends.interpreter import DecodedWeights, InterpreterBackend
    from edgellm.program.interpreter import Interpreter

    program = planned.program
    memory = {"weights": 4 * sum(math.prod(shape) for shape in program.weights.values())}
    check_memory(planned, memory)
    backend = InterpreterBackend(
        Interpreter(program, DecodedWeights(planned.file)),
        n_vocab=program.n_vocab,
        n_embd=program.width,
        n_ctx=planned.n_ctx,
        recurrent=bool(program.states),
        cache_tokens=max(planned.options.cache_tokens or planned.n_ctx, planned.n_ctx),
        batch=_batch(planned),
    )
    return backend, memory


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
