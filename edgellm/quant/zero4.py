"""4-bit numbers in blocks of 32 with a float32 scale and a 4-bit zero point, for ONNX Runtime.

Value: scale * (q - zero_point), q and zero_point in 0 .. 15. Source: MatMulNBits of ONNX Runtime's domain
com.microsoft. GGUF has no such format.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.quant.feedback import Feedback

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCK = 32
# Its number in the extension module; those of GGUF are small.
_NUMBER = 1000
_LAYOUT = np.dtype([("d", "<f4"), ("zero", "u1"), ("qs", "u1", 16)])


class Encoded(NamedTuple):
    """A matrix (rows, cols), cols a multiple of 32.

    codes: (rows, cols / 32, 16), value 2i of a block in the low half of byte i. scales: (rows, cols / 32).
    zero_points: (rows, (cols / 32 + 1) // 2), that of an even block in the low half of a byte. error, power:
    (weighted) sums of square differences and of squares.
    """

    codes: Bytes
    scales: Floats
    zero_points: Bytes
    error: float
    power: float


def encode(
    values: Floats, importance: Floats | None = None, feedback: Feedback | None = None, *, threads: int
) -> Encoded:
    """Scales and zero points are searched for the least (weighted) square error.

    importance: (cols,), not negative, finite; None: all the same. feedback: of the matrix's inputs, for
    blocks of 32; None: without. Raises ModelError for values that are NaN or infinite, ValueError for rows
    that are not whole blocks.
    """
    from edgellm import _native

    values = np.ascontiguousarray(values, np.float32)
    try:
        if feedback is None:
            raw = _native.quantize(_NUMBER, values, importance, threads)
        else:
            raw = feedback.encode_as(_NUMBER, values.size // BLOCK * _LAYOUT.itemsize, values)
    except ArithmeticError as error:
        raise ModelError(f"a value is {error}; the weights are damaged") from None
    sums = _native.quantization_error(_NUMBER, raw, values, importance, threads)
    blocks = raw.view(_LAYOUT).reshape(len(values), -1)
    zeros = np.pad(blocks["zero"], ((0, 0), (0, blocks.shape[1] % 2)))
    return Encoded(
        np.ascontiguousarray(blocks["qs"]),
        np.ascontiguousarray(blocks["d"]),
        zeros[:, 0::2] | zeros[:, 1::2] << 4,
        *sums,
    )


def decode(encoded: Encoded) -> Floats:
    """The values (rows, cols)."""
    rows, n_blocks = encoded.scales.shape
    zeros = np.stack((encoded.zero_points & 15, encoded.zero_points >> 4), axis=-1).reshape(rows, -1)
    codes = np.stack((encoded.codes & 15, encoded.codes >> 4), axis=-1).reshape(rows, n_blocks, BLOCK)
    levels = codes.astype(np.float32) - zeros[:, :n_blocks, None]
    return (levels * encoded.scales[..., None]).reshape(rows, -1)
