"""Options of loading a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgellm.engine.adapters import AdapterFile
from edgellm.engine.kv_types import KV_TYPES
from edgellm.errors import UsageError

# Contexts if none is given: at most, and at least where the model was trained for so much.
LARGEST_DEFAULT = 32768
DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 256
DEFAULT_PARALLEL = 4
DEFAULT_WAITING = 256
# With the last sampled token they are eight, which the kernels for few tokens compute together.
DEFAULT_DRAFT_MAX = 7
BACKENDS = ("auto", "native", "onnx", "llama_cpp", "interpreter")
BATTERY = ("full", "eco")
WITH_ADAPTERS = ("auto", "native", "interpreter")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    threads: None uses the physical cores that this process may use. context: tokens; None uses the trained
    context, at most 32768, or what memory allows (`planning.default_context`); 0 uses the trained context.
    cache_tokens: tokens that all sequences together may hold; None: those of `cache_contexts` contexts.
    parallel: most requests that run at the same time. max_waiting: most requests that wait. batch: tokens of
    a step. kv_type: type of cached keys and values, a name of `KV_TYPES`, or "auto": f32 if all weights are
    f32, else the fastest type of 16 bits. isa: instruction set, "" for the best one. draft_max: most draft
    tokens of one request in a step (None: 7, 0: none); answers do not depend on it. draft: file of a smaller
    model of the same vocabulary that drafts, too. max_memory: most bytes that may be used; None: the
    available ones. max_temp: degrees Celsius of the processor that rests between steps keep to. on_battery:
    "eco" works half of the time there, "full" all of it. lora: adapters to load, with the factors that
    answers use unless they choose others. Raises UsageError for a value out of range.
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
    max_temp: float | None = None
    on_battery: str = "full"

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
        if self.max_temp is not None and not 30 <= self.max_temp <= 120:
            raise UsageError(f"max_temp is {self.max_temp!r}; it must be 30 to 120 degrees Celsius.")
        if self.on_battery not in BATTERY:
            raise UsageError(f"on_battery is {self.on_battery!r}; it must be {' or '.join(BATTERY)}.")
        if self.draft is not None and self.draft_max == 0:
            raise UsageError("draft is given and draft_max is 0; a draft model needs draft tokens.")
        if self.kv_type != "auto" and self.kv_type not in KV_TYPES:
            raise UsageError(f"kv_type is {self.kv_type!r}; the types are auto, {', '.join(KV_TYPES)}.")
        if self.backend not in BACKENDS:
            raise UsageError(f"backend is {self.backend!r}; the backends are {', '.join(BACKENDS)}.")
        native_only = self.kv_type != "auto" and KV_TYPES[self.kv_type].native_only
        if native_only and self.backend not in ("auto", "native"):
            raise UsageError(
                f"kv_type {self.kv_type} needs the native backend, and it is {self.backend}; use f16."
            )
        if self.lora and self.backend not in WITH_ADAPTERS:
            raise UsageError(
                f"lora needs one of the backends {', '.join(WITH_ADAPTERS)}, and it is {self.backend}."
            )
