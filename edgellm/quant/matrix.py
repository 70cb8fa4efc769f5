"""Products of plain matrices, and exponentials: the same bits on every machine, for any threads.

NumPy's own depend on the machine's linear algebra library and instruction sets. Encoders take what is
computed here as weights of errors, so that the bytes of a file would depend on it, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm.quant.format import Floats

# Rows that are mirrored together: their pieces stay in a cache.
_MIRRORED = 64


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
    """Add the lower triangle of x (rows, n) transposed @ x to that of `sums` (n, n)."""
    from edgellm import _native

    try:
        _native.add_moments(np.ascontiguousarray(x, np.float32), sums, threads, scalar)
    except RuntimeError as error:
        raise BackendError(f"{error}.") from None


def mirror(sums: Floats) -> None:
    """Make the upper triangle of a matrix (n, n) the mirror image of its lower one."""
    for start in range(0, len(sums), _MIRRORED):
        stop = start + _MIRRORED
        sums[:start, start:stop] = sums[start:stop, :start].T
        square = sums[start:stop, start:stop]
        square[:] = np.tril(square) + np.tril(square, -1).T


def exponentials(x: NDArray[np.float64], *, threads: int, scalar: bool = False) -> NDArray[np.float64]:
    """exp of each value, 0 below -708, and at most exp(709)."""
    from edgellm import _native

    out = np.array(x, np.float64, order="C")
    try:
        _native.exponentials(out.reshape(-1), threads, scalar)
    except RuntimeError as error:
        raise BackendError(f"{error}.") from None
    return out
