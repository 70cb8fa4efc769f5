"""How a model is to be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgellm.engine.adapters import AdapterFile
from edgellm.errors import UsageError

# Without being asked, a model gets this much context at most: memory for a long one is rarely what is wanted.
DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 256
DEFAULT_PARALLEL = 4
DEFAULT_WAITING = 256
# With the token they follow they make eight, which the kernels for few tokens take at once.
DEFAULT_DRAFT_MAX = 7
BACKENDS = ("auto", "native", "onnx", "llama_cpp", "interpreter")
WITH_ADAPTERS = ("auto", "native", "interpreter")
WITH_I16 = ("auto", "native")
KV_TYPES = ("auto", "f32", "f16", "i16", "q8_0")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    threads: None takes the physical cores this process may use. context: tokens; None takes the trained
    context or 4096, whichever is less (of a LongRoPE model at most the one before it was stretched); 0 takes
    the trained context. cache_tokens: tokens that all sequences together may hold; None: as many as
    `cache_contexts` contexts. parallel: answers that may be under way at once. max_waiting: further ones that
    may wait. batch: tokens per step. kv_type: how keys and values are kept: "f32"; "f16"; "i16", 16-bit
    integers with a scale for every head and token; "q8_0"; or "auto": f32 where all weights are, else f16 or
    i16, whichever is faster. isa: the instruction set to use, "" for the best. draft_max: tokens
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
        if self.kv_type == "i16" and self.backend not in WITH_I16:
            raise UsageError(f"kv_type i16 needs the native backend, and it is {self.backend}; use f16.")
        if self.lora and self.backend not in WITH_ADAPTERS:
            raise UsageError(
                f"lora needs one of the backends {', '.join(WITH_ADAPTERS)}, and it is {self.backend}."
            )
