"""Encoding and decoding of whole tensors by the extension module, on several threads.

The bytes do not depend on the machine or on the number of threads. The extension module is imported with
the first call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np

from edgellm.errors import BackendError
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant.format import Bytes, Floats, refusal

ENCODERS = frozenset(kind for kind in GGMLType if kind.has_encoder)


def encode_rows(
    kind: GGMLType, values: Floats, importance: Floats | None = None, *, threads: int, scalar: bool = False
) -> Bytes:
    """The bytes (n_bytes,) of a matrix (rows, cols), scales chosen for the least weighted square error.

    importance: (cols,), not negative, finite: the weight of each column; None: all the same. scalar: without
    the instruction sets of this machine. Raises ModelError for NaN, infinite or too large values, ValueError
    for rows that are not whole blocks and importances that do not fit.
    """
    from edgellm import _native

    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        if importance.shape != values.shape[1:]:
            raise ValueError(
                f"importances of shape {importance.shape} do not fit values of shape {values.shape}"
            )
        if not (np.isfinite(importance).all() and (importance >= 0).all()):
            raise ValueError("importances must be finite and not negative")
    try:
        with _threads_refused():
            encoded: Bytes = _native.quantize(
                int(kind), np.ascontiguousarray(values, np.float32), importance, threads, scalar
            )
    except ArithmeticError as error:
        raise refusal(kind, str(error)) from None
    return encoded


def decode_values(kind: GGMLType, raw: Bytes, shape: tuple[int, ...], *, threads: int) -> Floats:
    """The values of a tensor of a weight format: `raw` (n_bytes,) uint8 to float32 of `shape`.

    Raises ValueError if `raw` does not have the size that type and shape need.
    """
    from edgellm import _native

    with _threads_refused():
        values: Floats = _native.dequantize(
            int(kind), np.ascontiguousarray(raw).reshape(-1), prod(shape), threads
        )
    return values.reshape(shape)


def square_error(
    kind: GGMLType, raw: Bytes, values: Floats, importance: Floats | None = None, *, threads: int
) -> tuple[float, float]:
    """Sums of (weighted) square differences and of (weighted) squares.

    raw: the encoded bytes of values (rows, cols); importance: (cols,) or None.
    """
    from edgellm import _native

    with _threads_refused():
        return _native.quantization_error(
            int(kind), raw, np.ascontiguousarray(values, np.float32), importance, threads
        )


def relative_error(
    kind: GGMLType, raw: Bytes, values: Floats, importance: Floats | None = None, *, threads: int
) -> float:
    """Root of the quotient of the sums of `square_error`; 0 where all values are 0."""
    error, power = square_error(kind, raw, values, importance, threads=threads)
    return float(np.sqrt(error / power)) if power > 0 else 0.0


@contextmanager
def _threads_refused() -> Iterator[None]:
    """Raises BackendError where the system refuses a thread."""
    try:
        yield
    except RuntimeError as error:
        raise BackendError(f"{error}.") from None


def n_bytes(kind: GGMLType, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of whole blocks."""
    layout = LAYOUTS[kind]
    return prod(shape) // layout.block_size * layout.block_bytes
