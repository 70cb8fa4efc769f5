"""Second moments of matrices' inputs, in files: means of products of all pairs of columns.

Those of a plain matrix are added up while a text is read. A stack of experts would need a square for each,
most of them for few tokens: there the inputs themselves are kept, and moments are taken of them when needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.quant.matrix import add_moments, mirror

Floats = NDArray[np.float32]
_MEANS, _ROWS, _STARTS = ".means.npy", ".rows.npy", ".starts.npy"


def write_means(base: Path, sums: Floats, n_rows: int) -> Path:
    """Keep the moments of a plain matrix; returns their path.

    sums: over n_rows rows, (n_in, n_in), of which the lower triangle counts; they become means.
    """
    sums /= np.float32(n_rows)
    mirror(sums)
    return _write(base, _MEANS, sums, [0, n_rows])


def write_rows(base: Path, rows: Mapping[int, Sequence[Floats]], n_matrices: int) -> Path:
    """Keep the inputs (n, n_in) of matrices of a stack, by their numbers; returns their path."""
    lengths = [sum(map(len, rows.get(number, ()))) for number in range(n_matrices)]
    every = [part for number in range(n_matrices) for part in rows.get(number, ())]
    return _write(base, _ROWS, np.concatenate(every), np.cumsum([0, *lengths]))


def _write(base: Path, suffix: str, values: Floats, starts: Sequence[int] | NDArray[np.int64]) -> Path:
    path = base.with_name(base.name + suffix)
    np.save(path, values)
    np.save(base.with_name(base.name + _STARTS), np.asarray(starts, np.int64))
    return path


def is_of_a_stack(path: Path) -> bool:
    """True if each matrix has moments of its own."""
    return path.name.endswith(_ROWS)


def read_moments(path: Path, number: int, *, threads: int) -> tuple[Floats, int] | None:
    """Moments (n_in, n_in) of matrix `number` and the rows they are means of; None if no row reached it."""
    starts = np.load(path.with_name(path.name.split(".")[0] + _STARTS))
    if not is_of_a_stack(path):
        return np.load(path), int(starts[1])
    rows = np.load(path, mmap_mode="r")[starts[number] : starts[number + 1]]
    if not len(rows):
        return None
    means: Floats = np.zeros((rows.shape[1], rows.shape[1]), np.float32)
    add_moments(np.asarray(rows), means, threads=threads)
    means /= np.float32(len(rows))
    mirror(means)
    return means, len(rows)
