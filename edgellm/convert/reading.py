"""Reading of texts with a model in float32: the same bits on every machine and for any number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgellm.program import Program
from edgellm.program.interpreter import Interpreter, Observe
from edgellm.quant.matrix import exponentials, multiply

Floats = NDArray[np.float32]


def reader(
    program: Program,
    weights: Mapping[str, Floats],
    *,
    threads: int,
    n_texts: int = 1,
    observe: Observe | None = None,
) -> Interpreter:
    """A model that reads n_texts side by side; threads share the texts, and a text if there are few."""
    workers = max(1, min(threads, n_texts))
    for_each = -(-threads // workers)
    return Interpreter(
        program,
        weights,
        observe,
        multiply=partial(multiply, threads=for_each),
        exp=partial(exponentials, threads=for_each),
        workers=workers,
    )
