"""Planning: from a model file to its program, context, adapters and draft model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgellm.device.cores import default_threads
from edgellm.device.memory import available_memory, total_memory
from edgellm.engine.adapters import read_adapter
from edgellm.engine.kv_types import cached_bytes, chosen_kv_type
from edgellm.engine.load_options import DEFAULT_CONTEXT, LARGEST_DEFAULT, LoadOptions
from edgellm.errors import EdgeLLMError, UsageError
from edgellm.families import build, trained_context
from edgellm.gguf.reader import GGUFFile
from edgellm.program import Program
from edgellm.program.exported import is_exported

if TYPE_CHECKING:
    from edgellm.program.adapter import Adapter

# Most finished sequences in the prefix cache, and most bytes of their recurrent states together.
MAX_CACHED_SEQUENCES = 32
STATES_BYTES = 128 << 20
# Cache of an encoder for each token of a step, so that texts much shorter than a block fill one.
SHORT_TEXTS = 4


class LoadPlan(NamedTuple):
    """A model file ready to be loaded: everything but the weights."""

    file: GGUFFile
    program: Program
    options: LoadOptions
    n_ctx: int
    threads: int
    adapters: tuple[Adapter, ...] = ()
    draft: LoadPlan | None = None

    @property
    def changed(self) -> bool:
        """True if a file of the model, or of its draft model, has another content by now."""
        return self.file.changed or (self.draft is not None and self.draft.changed)

    @property
    def no_drafts(self) -> str | None:
        """Reason against speculative decoding; None if it is possible."""
        if self.program.states:
            return f"{self.program.family} models cannot take tokens back"
        if self.backend != "native":
            return f"on the backend {self.backend} the answers could depend on it"
        return None

    def close_draft(self) -> None:
        """Close the file of the draft model."""
        if self.draft is not None:
            self.draft.file.close()

    @property
    def backend(self) -> str:
        """Name of the backend; for "auto" the one of the file's form."""
        if self.options.backend != "auto":
            return self.options.backend
        return "onnx" if is_exported(self.file.metadata) else "native"

    @property
    def kv_type(self) -> str:
        """Type in which the cache stores keys and values."""
        options = self.options
        return chosen_kv_type(self.file, self.program, options.kv_type, backend=self.backend, isa=options.isa)

    @property
    def cache_tokens(self) -> int:
        """Tokens that all sequences together may hold: at least one whole context.

        An encoder holds the short texts of a step for a moment, each in blocks of its own.
        """
        contexts = self.options.cache_contexts * self.n_ctx
        if self.program.is_encoder:
            contexts = max(contexts, SHORT_TEXTS * self.options.batch)
        return max(self.options.cache_tokens or contexts, self.n_ctx)

    @property
    def n_cached_sequences(self) -> int:
        """Number of finished sequences to keep; fewer where each holds a recurrent state of its own."""
        state_bytes = 4 * sum(state.size for state in self.program.states)
        return (
            max(2, min(MAX_CACHED_SEQUENCES, STATES_BYTES // state_bytes))
            if state_bytes
            else MAX_CACHED_SEQUENCES
        )


def plan(file: GGUFFile, options: LoadOptions) -> LoadPlan:
    """Build a file's program, choose its context, read its adapters, and plan its draft model the same way.

    Raises UsageError if the context exceeds the trained one or the draft model does not fit, and as
    `read_adapter` does.
    """
    shapes = {name: info.shape for name, info in file.tensors.items()}
    n_ctx = options.context
    try:
        trained = trained_context(file.metadata)
        if n_ctx is None:
            n_ctx = largest_default(file, trained)
        elif n_ctx == 0:
            n_ctx = trained
        elif n_ctx > trained:
            raise UsageError(
                f"the context is {n_ctx} tokens and the model was trained with {trained}; "
                f"give at most {trained}."
            )
        program = build(file.metadata, shapes, context=n_ctx)
        if options.context is None:
            n_ctx = default_context(file, program, options)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None
    _check_backend(file, options)
    adapters = tuple(read_adapter(adapter.path, file, program) for adapter in options.lora)
    planned = LoadPlan(file, program, options, n_ctx, options.threads or default_threads(), adapters)
    if options.draft is None or planned.no_drafts is not None:
        return planned
    return _plan_draft(planned, options.draft)


def largest_default(file: GGUFFile, trained: int) -> int:
    """Largest context if none is given; for a LongRoPE model the length that its short factors are for."""
    n_ctx = min(trained, LARGEST_DEFAULT)
    architecture = file.metadata["general.architecture"]
    original = file.metadata.get(f"{architecture}.rope.scaling.original_context_length")
    if "rope_factors_short.weight" in file.tensors and isinstance(original, int):
        n_ctx = min(n_ctx, original)
    return n_ctx


def default_context(file: GGUFFile, program: Program, options: LoadOptions) -> int:
    """Context if none is given: the largest one, halved while keys and values would take more than half of
    the memory that the weights leave, but at least DEFAULT_CONTEXT.

    Encoders get no more than DEFAULT_CONTEXT, because they compute a text in one step.
    """
    n_ctx = largest_default(file, program.n_ctx_train)
    if n_ctx <= DEFAULT_CONTEXT:
        return n_ctx
    if program.logits is None:
        return DEFAULT_CONTEXT
    # Any type of 16 bits; naming the one that is chosen would load the engine before its thread does.
    kv_type = "f16" if options.kv_type == "auto" else options.kv_type
    per_token = sum(cached_bytes(cache, kv_type) for cache in program.caches)
    room = _memory(options) - sum(info.n_bytes for info in file.tensors.values())
    while n_ctx > DEFAULT_CONTEXT and options.cache_contexts * n_ctx * per_token > room / 2:
        n_ctx //= 2
    return max(n_ctx, DEFAULT_CONTEXT)


def _memory(options: LoadOptions) -> float:
    """Bytes that loading may use; infinite if the system does not say."""
    if options.max_memory is not None:
        return options.max_memory
    available, total = available_memory(), total_memory()
    if available is not None:
        return available
    return math.inf if total is None else total / 2


def vocabulary_difference(path: Path, draft: Path) -> str | None:
    """Difference of vocabularies that keeps the second file from being a draft model of the first; None if
    none.
    """
    from edgellm.tokenizer.compare import difference

    with GGUFFile.open(path, guarded=True) as file, GGUFFile.open(draft, guarded=True) as other:
        return difference(file.metadata, other.metadata)


def _plan_draft(planned: LoadPlan, path: Path) -> LoadPlan:
    """Plan with this file as the draft model; UsageError if it cannot draft for the other model."""
    from edgellm.tokenizer.compare import difference

    file = GGUFFile.open(path, guarded=True)
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
        reason = draft.no_drafts
        if draft.program.logits is None:
            reason = f"{draft.program.family} models generate nothing"
        if reason is not None:
            raise UsageError(f"{path} cannot be a draft model: {reason}; take another.")
    except BaseException:
        file.close()
        raise
    return planned._replace(draft=draft)


def _check_backend(file: GGUFFile, options: LoadOptions) -> None:
    """Raise UsageError for a backend or options that do not go with the file's form."""
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
