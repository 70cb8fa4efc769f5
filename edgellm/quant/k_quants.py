"""The K formats: 256 values in groups of 16 or 32, each group with a small integer scale of its own.

Source: ggml's block structures. `(h, w)` planes: see `format.planes`.
"""

from __future__ import annotations

import numpy as np

from edgellm.gguf.types import GGMLType
from edgellm.quant.format import Blocks, Bytes, Floats, Format, column, planes

Q2_K = np.dtype([("scales", "u1", 16), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")])
Q3_K = np.dtype([("hmask", "u1", 32), ("qs", "u1", (2, 32)), ("scales", "u1", 12), ("d", "<f2")])
Q4_K = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", (4, 32))])
Q5_K = np.dtype(
    [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", (4, 32))]
)
Q6_K = np.dtype([("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", 16), ("d", "<f2")])
Q8_K = np.dtype([("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)])


def decode_q2_k(blocks: Blocks) -> Floats:
    """84 bytes: 16 scales; 64 bytes of 2-bit q; f16 d; f16 dmin. 16 groups of 16.

    The low half of a scale byte is the group's scale s, the high half its minimum m. q: two times 128
    values, each four planes of 32. Value: d * s * q - dmin * m.
    """
    scale = column(blocks["d"]) * (blocks["scales"] & 15)
    minimum = column(blocks["dmin"]) * (blocks["scales"] >> 4)
    q = planes(blocks["qs"], 2).reshape(-1, 16, 16).astype(np.float32)
    return (scale[:, :, None] * q - minimum[:, :, None]).reshape(-1, 256)


def decode_q3_k(blocks: Blocks) -> Floats:
    """110 bytes: 256 high bits; 64 bytes of 2 low bits; 12 bytes of 6-bit scales; f16 d. 16 groups of 16.

    Plane i of `hmask` (bit i of its 32 bytes) is the high bit of values 32 i .. 32 i + 31; q is low + 4 high.
    Scale j: 4 low bits from the planes of the first 8 scale bytes, 2 high bits from those of the last 4.
    Value: d * (scale - 32) * (q - 4).
    """
    packed = blocks["scales"]
    low = planes(packed[:, :8], 4).reshape(-1, 16)
    high = planes(packed[:, 8:], 2).reshape(-1, 16)
    scale = column(blocks["d"]) * ((low | (high << 4)).astype(np.float32) - 32)
    q = planes(blocks["qs"], 2).reshape(-1, 16, 16) | (planes(blocks["hmask"], 1).reshape(-1, 16, 16) << 2)
    return (scale[:, :, None] * (q.astype(np.float32) - 4)).reshape(-1, 256)


def _scales_and_minimums(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit minimums in the 12 bytes that Q4_K and Q5_K have.

    Scales 0..3 are the low 6 bits of bytes 0..3, minimums 0..3 those of bytes 4..7. Of scales 4..7 and
    minimums 4..7, the low 4 bits are the low and high half of bytes 8..11, the high 2 bits the top two
    bits of bytes 0..3 and 4..7.
    """
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate((a & 63, (c & 15) | ((a >> 6) << 4)), axis=1)
    minimums = np.concatenate((b & 63, (c >> 4) | ((b >> 6) << 4)), axis=1)
    return scales, minimums


def _eight_groups(blocks: Blocks, q: Bytes) -> Floats:
    """d * scale * q - dmin * minimum over 8 groups of 32; q (n, 8, 32)."""
    scales, minimums = _scales_and_minimums(blocks["scales"])
    scale = column(blocks["d"]) * scales
    minimum = column(blocks["dmin"]) * minimums
    return (scale[:, :, None] * q.astype(np.float32) - minimum[:, :, None]).reshape(-1, 256)


def decode_q4_k(blocks: Blocks) -> Floats:
    """144 bytes: f16 d; f16 dmin; 12 bytes of 6-bit scales and minimums; 128 bytes of 4-bit q.

    q: four times 64 values, each two planes of 32. Value: d * scale * q - dmin * minimum, 8 groups of 32.
    """
    return _eight_groups(blocks, planes(blocks["qs"], 4).reshape(-1, 8, 32))


def decode_q5_k(blocks: Blocks) -> Floats:
    """176 bytes: as Q4_K with 32 bytes `qh` before `qs`.

    Plane i of `qh` (bit i of its 32 bytes) is the fifth bit of group i.
    """
    high = planes(blocks["qh"], 1) << np.uint8(4)
    return _eight_groups(blocks, planes(blocks["qs"], 4).reshape(-1, 8, 32) | high)


def decode_q6_k(blocks: Blocks) -> Floats:
    """210 bytes: 128 bytes of 4 low bits; 64 bytes of 2 high bits; 16 int8 scales; f16 d. 16 groups of 16.

    Per 128 values: two planes of 64 low parts, four planes of 32 high parts. Value: d * scale * (q - 32).
    """
    low = planes(blocks["ql"], 4).reshape(-1, 16, 16)
    high = planes(blocks["qh"], 2).reshape(-1, 16, 16)
    scale = column(blocks["d"]) * blocks["scales"].astype(np.float32)
    q = (low | (high << 4)).astype(np.float32) - 32
    return (scale[:, :, None] * q).reshape(-1, 256)


def decode_q8_k(blocks: Blocks) -> Floats:
    """292 bytes: f32 d; 256 int8 q; 16 int16 sums of 16 q each, not needed here. Value: d * q."""
    return column(blocks["d"]) * blocks["qs"].astype(np.float32)


FORMATS: tuple[Format, ...] = (
    Format(GGMLType.Q2_K, Q2_K, decode_q2_k),
    Format(GGMLType.Q3_K, Q3_K, decode_q3_k),
    Format(GGMLType.Q4_K, Q4_K, decode_q4_k),
    Format(GGMLType.Q5_K, Q5_K, decode_q5_k),
    Format(GGMLType.Q6_K, Q6_K, decode_q6_k),
    Format(GGMLType.Q8_K, Q8_K, decode_q8_k),
)
