"""The ternary formats TQ1_0 and TQ2_0: 256 values of -1, 0 or 1 times one scale.

Source: ggml's block structures.
"""

from __future__ import annotations

import numpy as np

from edgellm.gguf.types import GGMLType
from edgellm.quant.format import Blocks, Bytes, Floats, Format, column, planes

TQ1_0 = np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")])
TQ2_0 = np.dtype([("qs", "u1", (2, 32)), ("d", "<f2")])


def _digits(packed: Bytes, n_digits: int) -> Bytes:
    """(n, m) bytes to (n, n_digits * m) base-3 digits: the first digit of all m bytes, then the second, ...

    A byte holds ceil(256 x) for a fraction x in base 3; multiplying by 3^i modulo 256 drops i digits and the
    next one is what a further multiplication by 3 carries over 256.
    """
    powers = (3 ** np.arange(n_digits)).astype(np.uint8)[:, None]
    rest = packed[:, None, :] * powers
    digits = (rest.astype(np.uint16) * 3) >> 8
    return digits.astype(np.uint8).reshape(len(packed), -1)


def decode_tq1_0(blocks: Blocks) -> Floats:
    """54 bytes: 48 bytes of five base-3 digits; 4 bytes of four; f16 d. Value: d * (digit - 1).

    Bytes 0..31 hold values 0..159, bytes 32..47 values 160..239, the last 4 bytes values 240..255.
    """
    qs = blocks["qs"]
    q = np.concatenate((_digits(qs[:, :32], 5), _digits(qs[:, 32:], 5), _digits(blocks["qh"], 4)), axis=1)
    return column(blocks["d"]) * (q.astype(np.float32) - 1)


def decode_tq2_0(blocks: Blocks) -> Floats:
    """66 bytes: 64 bytes of 2-bit q; f16 d. Value: d * (q - 1).

    q: two times 128 values, each four planes of 32.
    """
    q = planes(blocks["qs"], 2).reshape(-1, 256)
    return column(blocks["d"]) * (q.astype(np.float32) - 1)


FORMATS: tuple[Format, ...] = (
    Format(GGMLType.TQ1_0, TQ1_0, decode_tq1_0),
    Format(GGMLType.TQ2_0, TQ2_0, decode_tq2_0),
)
