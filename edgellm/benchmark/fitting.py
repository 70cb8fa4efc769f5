"""Fit of models to this machine: memory, and predicted speed, before anything is fetched or loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edgellm.benchmark.prediction import (
    SIZE_SPREAD,
    Prediction,
    formats_of,
    plan_work,
    predict,
    size_work,
)
from edgellm.benchmark.probe import RateBook
from edgellm.device.cores import default_threads
from edgellm.device.memory import total_memory
from edgellm.engine.load_options import DEFAULT_CONTEXT, LoadOptions
from edgellm.engine.loading import planned_memory, reachable_memory
from edgellm.engine.planning import plan
from edgellm.errors import UnsupportedError, size_text
from edgellm.families import trained_context
from edgellm.gguf.reader import GGUFFile

# Memory of a process beside its model: Python, the tokenizer, what is on its way.
PROCESS_BYTES = 64 << 20
# Bytes of keys and values for each token of a model of a billion parameters of which only the size is known.
_TOKEN_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class Fit:
    """A model on this machine: bytes of its file and of memory at a context of `n_ctx` tokens, and its speed.

    fits: True if the memory is free now, None if it would be with other programs closed, False if it is
    never.
    """

    n_bytes: int
    memory: int
    n_ctx: int
    fits: bool | None
    speed: Prediction

    def sentence(self) -> str:
        """The fit in words, for people."""
        parts = [f"{size_text(self.memory)} of memory at a context of {self.n_ctx} tokens"]
        for name, tok_s in (("prompts", self.speed.prompt_tok_s), ("answers", self.speed.answer_tok_s)):
            if tok_s is not None:
                low, high = self.speed.span(tok_s)
                parts.append(f"{name} {low:.3g} to {high:.3g} tokens a second")
        return f"{', '.join(parts)} ({fits_in_words(self.fits)})"


def fits_in_words(fits: bool | None) -> str:
    """Words for `Fit.fits`."""
    if fits is None:
        return "fits if other programs are closed"
    return "fits" if fits else "too large for this machine"


def fit_file(file: GGUFFile, options: LoadOptions, book: RateBook) -> Fit:
    """Fit of a model file, or of one of which the header is at hand.

    options: as for loading; no context means 4096 tokens, or what the model was trained for. Raises as
    planning does.
    """
    if options.context is None:
        options = replace(options, context=min(DEFAULT_CONTEXT, trained_context(file.metadata)))
    planned = plan(file, options)
    if planned.backend != "native":
        raise UnsupportedError(
            f"{file.path}: runs on the backend {planned.backend}, and predictions are for native; "
            "`edgellm bench -m MODEL` measures it"
        )
    memory = sum(planned_memory(planned).values()) + PROCESS_BYTES
    work = plan_work(planned)
    rates = book.rates(formats_of(work), threads=planned.threads, isa=options.isa, kv_type=planned.kv_type)
    speed = predict(work, rates, generates=planned.program.logits is not None)
    n_bytes = sum(info.n_bytes for info in file.tensors.values())
    return Fit(n_bytes, memory, planned.n_ctx, _fits(memory), speed)


def fit_size(
    n_bytes: int,
    parameters: float,
    kind: str,
    options: LoadOptions,
    book: RateBook,
    *,
    active: float = 0.0,
    generates: bool = True,
) -> Fit:
    """Fit of a model of which only the size is known; kind: format of most of its matrices."""
    n_ctx = options.context or DEFAULT_CONTEXT
    # Caches grow more slowly than models: from 20 kB a token for 135M parameters to 130 kB for 8B.
    cache = n_ctx * _TOKEN_BYTES * math.sqrt(parameters / 1e9) if generates else 0
    memory = round(n_bytes + cache + 2 * PROCESS_BYTES)
    rates = book.rates([kind], threads=options.threads or default_threads(), isa=options.isa)
    work = size_work(parameters, active or parameters, n_bytes, kind)
    return Fit(
        n_bytes, memory, n_ctx, _fits(memory), predict(work, rates, generates=generates, spread=SIZE_SPREAD)
    )


def _fits(memory: int) -> bool | None:
    free, total = reachable_memory(), total_memory()
    if free is None or memory <= free:
        return True
    # The system keeps a share for itself.
    return None if total is not None and memory <= 0.85 * total else False
