"""Writing a model file tensor by tensor: read a piece, encode it, write it, forget it.

A tensor that the file holds as the source does is read in pieces of rows, so that memory stays at about
64 MiB whatever the size of the embedding. A tensor that is rearranged is read whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.moments import read_moments
from edgellm.errors import ModelError
from edgellm.gguf.encode import Writable, encode_string, encode_value
from edgellm.gguf.types import GGMLType, ValueType
from edgellm.gguf.writer import GGUFWriter
from edgellm.quant import native
from edgellm.quant.feedback import Feedback, shrinkage, takes_feedback

Floats = NDArray[np.float32]
# Values of a tensor that are in memory at a time, where its source can be read in pieces.
PIECE_VALUES = 1 << 24


class TensorSource(Protocol):
    """Source of a tensor's values."""

    def pieces(self) -> Iterator[Floats]:
        """The rows in order, as matrices (n, cols) float32; nothing is kept afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write: `shape` in NumPy order, the format it is to have, its source.

    importance: (cols,), or (n_experts, cols) for a stack of matrices; None: all values count the same.
    moments: the file of its inputs' second moments (calibration.py), for error feedback; None: without.
    asked: the format was asked for by the tensor's name.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    source: TensorSource
    importance: Floats | None = None
    moments: Path | None = None
    asked: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return native.n_bytes(self.type, self.shape)


@dataclass(slots=True)
class Pair:
    """A metadata value; `kind`: its GGUF type, or that of an array's elements, None for the usual one."""

    value: Writable
    kind: ValueType | None = None


@dataclass(slots=True)
class FilePlan:
    """Contents of a file to write; notes: sentences for the user about its source and its formats."""

    metadata: dict[str, Pair]
    tensors: list[Tensor]
    inputs: tuple[Path, ...] = ()
    errors: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)


def header_bytes(plan: FilePlan) -> int:
    """Bytes of the file beside its tensors, at most: metadata, names, alignment."""
    pairs = sum(
        len(encode_string(key)) + len(encode_value(pair.value, pair.kind)[1]) + 4
        for key, pair in plan.metadata.items()
    )
    return pairs + sum(len(tensor.name.encode()) + 128 for tensor in plan.tensors) + 1024


Progress = Callable[[str, int], None]


def write(
    plan: FilePlan,
    path: str | os.PathLike[str],
    *,
    threads: int,
    resume: str | None = None,
    progress: Progress | None = None,
    finish: Callable[[GGUFWriter], None] | None = None,
) -> Mapping[str, float]:
    """Write the file; returns each tensor's relative error (weighted, if it has importances).

    progress: called with a tensor's name and its bytes when it is done. finish: called before the file gets
    its final name, when all tensors are in `writer.part`; if it raises, the file never gets that name.
    Raises ModelError for values that a format cannot hold, FileError if the file cannot be written.
    """
    with GGUFWriter(path, inputs=plan.inputs, resume=resume) as writer:
        for key, pair in plan.metadata.items():
            writer.set(key, pair.value, pair.kind)
        for tensor in plan.tensors:
            writer.add_tensor(tensor.name, tensor.type, tensor.shape)
        writer.write_header()
        feedbacks = Feedbacks(threads)
        for tensor in plan.tensors:
            if tensor.name not in writer.written:
                error = _Error()
                writer.write_tensor(tensor.name, _encoded(tensor, feedbacks, threads, error))
                plan.errors[tensor.name] = error.relative
            if progress is not None:
                progress(tensor.name, tensor.n_bytes)
        if finish is not None:
            finish(writer)
        writer.finish()
    return plan.errors


@dataclass(slots=True)
class _Error:
    error: float = 0.0
    power: float = 0.0

    def add(
        self,
        kind: GGMLType,
        raw: NDArray[np.uint8],
        values: Floats,
        importance: Floats | None,
        threads: int,
    ) -> None:
        if kind != GGMLType.F32:
            error, power = native.square_error(kind, raw, values, importance, threads=threads)
            self.error += error
            self.power += power

    @property
    def relative(self) -> float:
        return float(np.sqrt(self.error / self.power)) if self.power > 0 else 0.0


def written_error(tensor: Tensor, raw: NDArray[np.uint8], threads: int) -> float:
    """The relative error of a tensor that is in the file already; `raw`: its bytes there."""
    total, start = _Error(), 0
    for values, importance, _ in with_importance(tensor):
        n_bytes = native.n_bytes(tensor.type, values.shape)
        total.add(tensor.type, raw[start : start + n_bytes], values, importance, threads)
        start += n_bytes
    return total.relative


class Feedbacks:
    """Encoders with error feedback. The last one is kept: matrices with the same input are neighbours."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._key: tuple[Path, int, int] | None = None
        self._last: Feedback | None = None

    def of(self, tensor: Tensor, block: int, number: int = 0) -> Feedback | None:
        """The one for the inputs of matrix `number` and blocks of so many values.

        None for a tensor without moments, and for an expert that no token reached.
        """
        if tensor.moments is None or tensor.shape[-1] % block:
            return None
        key = (tensor.moments, block, number)
        if key != self._key:
            self._last = None  # before the next one takes as much memory
            found = read_moments(tensor.moments, number, threads=self._threads)
            if found is not None:
                self._last = Feedback(found[0], block, shrink=shrinkage(*found), threads=self._threads)
            self._key = key
        return self._last


def _encoded(
    tensor: Tensor, feedbacks: Feedbacks, threads: int, total: _Error
) -> Iterator[NDArray[np.uint8]]:
    takes = takes_feedback(tensor.type)
    for values, importance, number in with_importance(tensor):
        feedback = feedbacks.of(tensor, tensor.type.block_size, number) if takes else None
        try:
            if feedback is None:
                raw = native.encode_rows(tensor.type, values, importance, threads=threads)
            else:
                raw = feedback.encode(tensor.type, values)
        except ModelError as error:
            raise ModelError(f"tensor {tensor.name}: {error}") from None
        total.add(tensor.type, raw, values, importance, threads)
        yield raw


def with_importance(tensor: Tensor) -> Iterator[tuple[Floats, Floats | None, int]]:
    """The pieces of a tensor, each with the importances (cols,) of its columns and its matrix's number."""
    importance = tensor.importance
    if importance is None or importance.ndim == 1:
        for piece in tensor.source.pieces():
            yield piece, importance, 0
        return
    # A stack: each matrix has its own importances. Pieces need not end where matrices do.
    rows_per_matrix = prod(tensor.shape[1:-1])
    row = 0
    for piece in tensor.source.pieces():
        while len(piece):
            n = min(len(piece), rows_per_matrix - row % rows_per_matrix)
            number = row // rows_per_matrix
            yield piece[:n], importance[number], number
            piece, row = piece[n:], row + n
