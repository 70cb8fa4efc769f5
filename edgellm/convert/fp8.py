"""8-bit floats of checkpoints and the scales that multiply them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, ...]
# Rows and columns of a block with a scale of its own, unless config.json says another size.
BLOCK = (128, 128)


def factors(scale: Floats, shape: Shape, start: int, stop: int, block: tuple[int, int]) -> Floats | None:
    """Factors of the rows start .. stop of a weight, rows counted through all its matrices; None: no fit.

    shape: (..., rows, cols) of the weight. scale: one number; one for each matrix; one for each row,
    (..., rows) or (..., rows, 1); or one for each block of a matrix. Returns (stop - start, 1 or cols).
    """
    n_rows, n_cols = (shape[-2], shape[-1]) if len(shape) > 1 else (1, prod(shape))
    lead = shape[:-2]
    row = np.arange(start, stop)
    matrix, row = row // n_rows, row % n_rows
    if scale.size == 1:
        return scale.reshape(1, 1)
    if scale.shape in ((*lead, n_rows), (*lead, n_rows, 1)):
        return scale.reshape(-1, n_rows)[matrix, row][:, None]
    if lead and scale.shape in (lead, (*lead, 1), (*lead, 1, 1)):
        return scale.reshape(-1)[matrix][:, None]
    blocks = -(-n_rows // block[0]), -(-n_cols // block[1])
    if scale.shape != (*lead, *blocks):
        return None
    of_rows = scale.reshape(-1, *blocks)[matrix, row // block[0]]
    return np.repeat(of_rows, block[1], axis=1)[:, :n_cols]


def _fp8_table(exponent_bits: int, fraction_bits: int, bias: int, finite: bool) -> Floats:
    """All 256 values of an 8-bit float (OCP 8-bit floating point specification)."""
    codes = np.arange(256)
    exponent = (codes >> fraction_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    top = (1 << exponent_bits) - 1
    if finite:
        values[(codes & 127) == 127] = np.nan
    else:
        values = np.where(exponent == top, np.where(fraction == 0, np.inf, np.nan), values)
    table: Floats = np.where(codes < 128, values, -values).astype(np.float32)
    return table


FP8: Mapping[str, Floats] = {
    "F8_E4M3": _fp8_table(4, 3, 7, finite=True),
    "F8_E5M2": _fp8_table(5, 2, 15, finite=False),
}
