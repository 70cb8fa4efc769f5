"""Encoding with error feedback: what rounding one column loses, the columns after it make up for.

The error that counts is that of a matrix's outputs, e H e^T for a row's error e and the second moments H of
the inputs. See native/quantize/feedback.h.
"""

from __future__ import annotations

import numpy as np

from edgellm.errors import BackendError
from edgellm.gguf.types import GGMLType
from edgellm.quant.format import Bytes, Floats, refusal
from edgellm.quant.native import n_bytes

# Moments of a text are not those of the next one: products of different columns count so much less, or less
# still where few rows were seen, and each column's own square counts so much of the mean one more.
SHRINK = 0.2
DAMP = 0.01


def takes_feedback(kind: GGMLType) -> bool:
    """True if the format has codes to choose: legacy formats below 8 bits, K-quants, IQ4."""
    from edgellm import _native

    return _native.takes_feedback(int(kind))


def shrinkage(moments: Floats, n_rows: int) -> float:
    """Share by which products of different columns are to shrink: that of chance in them, at least SHRINK.

    Squares of correlations of independent columns are 1 / n_rows on average; what they are more is no chance
    (Schäfer and Strimmer 2005). Two digits, so that no machine's sums decide about bytes.
    """
    own = moments.diagonal().astype(np.float64)
    used = own > 0
    inverse = np.divide(1.0, own, out=np.zeros_like(own), where=used)
    n = int(used.sum())
    squares = sum(
        float(np.square(row, dtype=np.float64) @ inverse) * scale
        for row, scale in zip(moments, inverse, strict=True)
    )
    chance = n * (n - 1) / n_rows
    return max(SHRINK, round(float(min(1.0, chance / max(squares - n, 1e-9))), 2))


class Feedback:
    """Encoder of the matrices that multiply the same inputs.

    moments: (cols, cols), means or sums of products of columns. block: values of the formats' blocks. Raises
    ValueError for moments that are not finite, all 0, or of no inputs.
    """

    def __init__(
        self,
        moments: Floats,
        block: int,
        *,
        threads: int,
        shrink: float = SHRINK,
        damp: float = DAMP,
        scalar: bool = False,
    ) -> None:
        from edgellm import _native

        try:
            self._native = _native.Feedback(
                np.ascontiguousarray(moments, np.float32), block, shrink, damp, threads, scalar
            )
        except RuntimeError as error:
            raise BackendError(f"{error}.") from None

    def encode(self, kind: GGMLType, values: Floats) -> Bytes:
        """The bytes (n_bytes,) of a matrix (rows, cols).

        Raises ModelError for NaN, infinite or too large values, ValueError for another format's blocks.
        """
        try:
            return self.encode_as(int(kind), n_bytes(kind, values.shape), values)
        except ArithmeticError as error:
            raise refusal(kind, str(error)) from None

    def encode_as(self, number: int, size: int, values: Floats) -> Bytes:
        """The same for a format of that number and size in bytes; raises ArithmeticError, not ModelError."""
        out = np.empty(size, np.uint8)
        self._native.encode(number, np.ascontiguousarray(values, np.float32), out)
        return out
