"""Products of plain matrices, and exponentials: the same bits on every machine, for any threads.

NumPy's own depend on the machine's linear algebra library and instruction sets. Encoders take what is
computed here as weights of errors, so that the bytes of a file would depend on it, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm.quant.format import Floats


def multiply(x: Floats, weights: Floats, *, threads: int, scalar: bool = False) -> Floats:
    """x (rows, n_in) @ weights (n_out, n_in) transposed; scalar: without this machine's instruction sets."""
    from edgellm import _native

    out = np.empty((len(x), len(weights)), np.float32)
    try:
        _native.multiply(
            np.ascontiguousarray(x, np.float32),
            np.ascontiguousarray(weights, np.float32),
            out,
            threads,
            scalar,
        )
    except RuntimeError as error:
        raise BackendError(f"{error}.") from None
    return out


def add_moments(x: Floats, sums: Floats, *, threads: int, scalar: bool = False) -> None:
    """Add x (rows, n) transposed @ x to `sums` (n, n)."""
    from edgellm import _native

    try:
        _native.add_moments(np.ascontiguousarray(x, np.float32), sums, threads, scalar)
    except RuntimeError as error:
        raise BackendError(f"{error}.") from None


def exponentials(x: NDArray[np.float64], *, scalar: bool = False) -> NDArray[np.float64]:
    """exp of each value, 0 below -708, and at most exp(709)."""
    from edgellm import _native

    out = np.array(x, np.float64, order="C")
    _native.exponentials(out.reshape(-1), scalar)
    return out
