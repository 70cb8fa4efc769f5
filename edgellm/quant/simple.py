"""Formats of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, IQ4_NL, MXFP4. And NVFP4.

In those of 32 values `qs` holds 4-bit numbers as two planes: byte i has value i in its low half and value
i + 16 in its high half. Source: ggml's block structures; MXFP4: OCP Microscaling Formats 1.0.
"""

from __future__ import annotations

import numpy as np

from edgellm.gguf.types import GGMLType
from edgellm.quant.format import Blocks, Bytes, Floats, Format, column, planes

Q4_0 = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)])
Q5_0 = np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
Q8_1 = np.dtype([("d", "<f2"), ("s", "<f2"), ("qs", "i1", 32)])
IQ4_NL = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
MXFP4 = np.dtype([("e", "u1"), ("qs", "u1", 16)])
NVFP4 = np.dtype([("scales", "u1", 4), ("qs", "u1", (4, 8))])

# The 16 levels of the IQ4 formats: denser around zero, where most weights are.
IQ4_LEVELS = np.array(
    (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), dtype=np.float32
)
# Twice the values of E2M1 (sign, 2 bits of exponent, 1 of fraction).
E2M1_DOUBLED = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), dtype=np.float32)


def _nibbles(blocks: Blocks) -> Bytes:
    """(n, 32) 4-bit numbers of `qs`."""
    return planes(blocks["qs"], 4).reshape(-1, 32)


def _five_bits(blocks: Blocks) -> Bytes:
    """(n, 32) 5-bit numbers: 4 bits from `qs`, the fifth from bit i of `qh`."""
    high = np.unpackbits(blocks["qh"], axis=1, bitorder="little")
    return _nibbles(blocks) | (high << np.uint8(4))


def decode_q4_0(blocks: Blocks) -> Floats:
    """18 bytes: f16 d; 16 bytes of 4-bit q. Value: d * (q - 8)."""
    return column(blocks["d"]) * (_nibbles(blocks).astype(np.float32) - 8)


def decode_q4_1(blocks: Blocks) -> Floats:
    """20 bytes: f16 d; f16 m; 16 bytes of 4-bit q. Value: d * q + m."""
    return column(blocks["d"]) * _nibbles(blocks).astype(np.float32) + column(blocks["m"])


def decode_q5_0(blocks: Blocks) -> Floats:
    """22 bytes: f16 d; 32 fifth bits; 16 bytes of 4 lower bits. Value: d * (q - 16)."""
    return column(blocks["d"]) * (_five_bits(blocks).astype(np.float32) - 16)


def decode_q5_1(blocks: Blocks) -> Floats:
    """24 bytes: f16 d; f16 m; 32 fifth bits; 16 bytes of 4 lower bits. Value: d * q + m."""
    return column(blocks["d"]) * _five_bits(blocks).astype(np.float32) + column(blocks["m"])


def decode_q8(blocks: Blocks) -> Floats:
    """Q8_0, 34 bytes: f16 d; 32 int8 q. Q8_1, 36 bytes: f16 s = d * sum(q) after d. Value: d * q."""
    return column(blocks["d"]) * blocks["qs"].astype(np.float32)


def decode_iq4_nl(blocks: Blocks) -> Floats:
    """18 bytes: f16 d; 16 bytes of 4-bit q. Value: d * level[q], of 16 levels that are not evenly spaced."""
    return column(blocks["d"]) * IQ4_LEVELS[_nibbles(blocks)]


def decode_mxfp4(blocks: Blocks) -> Floats:
    """17 bytes: E8M0 exponent e; 16 bytes of 4-bit E2M1 q. Value: 2^(e - 127) * e2m1[q]."""
    scale = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
    return scale.astype(np.float32)[:, None] * E2M1_DOUBLED[_nibbles(blocks)]


def decode_nvfp4(blocks: Blocks) -> Floats:
    """36 bytes: 4 unsigned E4M3 scales; 4 x 8 bytes of 4-bit E2M1 q in two planes. Value: scale * e2m1[q].

    4 groups of 16. The scale 127 is NaN in E4M3; ggml reads it as 0.
    """
    bits = blocks["scales"]
    exponent, mantissa = (bits >> 3 & 15).astype(np.int32), (bits & 7).astype(np.float32)
    scale = np.ldexp(np.where(exponent == 0, mantissa, mantissa + 8), np.maximum(exponent, 1) - 11)
    scale = np.where(bits == 127, 0, scale).astype(np.float32)
    values: Floats = scale[:, :, None] * E2M1_DOUBLED[planes(blocks["qs"], 4).reshape(-1, 4, 16)]
    return values.reshape(-1, 64)


def _half(values: Floats) -> Floats:
    """Values as the file will hold them: rounded to float16."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _quotient(values: Floats, scale: Floats) -> Floats:
    """values / scale with 0 where the scale is 0."""
    safe = np.where(scale == 0, np.float32(1), scale)
    return np.where(scale == 0, np.float32(0), values / safe)


def _levels(values: Floats, d: Floats, m: Floats | float, low: int, high: int) -> Floats:
    """The nearest of the levels low .. high to each value, given the scale and offset that are stored."""
    return np.clip(np.rint(_quotient(values - m, d)), low, high).astype(np.float32)


def _weighted_error(values: Floats, decoded: Floats, importance: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        error: Floats = (importance * np.square(values - decoded)).sum(axis=1, keepdims=True)
    return np.where(np.isfinite(error), error, np.float32(np.inf))


def _symmetric(values: Floats, importance: Floats | None, half_range: int) -> tuple[Floats, Floats]:
    """Scale (n, 1) and levels (n, 32) in -half_range .. half_range - 1 with d * q near the values.

    The value of largest magnitude gets level -half_range, the one level without a counterpart. With
    importances, several scales around that one are tried, each moved to the least-squares optimum of
    the levels it gives, and the one of least weighted square error is kept.
    """
    index = np.abs(values).argmax(axis=1)[:, None]
    extreme = np.take_along_axis(values, index, axis=1)
    d = _half(extreme / np.float32(-half_range))
    q = _levels(values, d, 0.0, -half_range, half_range - 1)
    if importance is None:
        return d, q
    error = _weighted_error(values, d * q, importance)
    for step in range(-9, 10):
        trial = _half(extreme / np.float32(-half_range + step * 0.1))
        levels = _levels(values, trial, 0.0, -half_range, half_range - 1)
        power = (importance * levels * levels).sum(axis=1, keepdims=True)
        trial = _half(_quotient((importance * levels * values).sum(axis=1, keepdims=True), power))
        levels = _levels(values, trial, 0.0, -half_range, half_range - 1)
        trial_error = _weighted_error(values, trial * levels, importance)
        better = trial_error < error
        d, q, error = np.where(better, trial, d), np.where(better, levels, q), np.minimum(trial_error, error)
    return d, q


def _affine(values: Floats, importance: Floats | None, top: int) -> tuple[Floats, Floats, Floats]:
    """Scale (n, 1), offset (n, 1) and levels (n, 32) in 0 .. top with d * q + m near the values.

    The range is that of the block. With importances, several narrower ranges are tried, each moved to
    the least-squares optimum of the levels it gives; the least weighted square error is kept.
    """
    low = values.min(axis=1, keepdims=True)
    high = values.max(axis=1, keepdims=True)
    d, m = _half((high - low) / np.float32(top)), _half(low)
    q = _levels(values, d, m, 0, top)
    if importance is None:
        return d, m, q
    error = _weighted_error(values, d * q + m, importance)
    total = importance.sum(axis=1, keepdims=True)
    mean = _quotient((importance * values).sum(axis=1, keepdims=True), total)
    for step in range(10):
        shrink = np.float32(1 - 0.03 * step)
        trial_m = mean + (low - mean) * shrink
        levels = _levels(values, (high - low) * shrink / np.float32(top), trial_m, 0, top)
        mean_q = _quotient((importance * levels).sum(axis=1, keepdims=True), total)
        spread = levels - mean_q
        power = (importance * spread * spread).sum(axis=1, keepdims=True)
        trial = _half(_quotient((importance * spread * values).sum(axis=1, keepdims=True), power))
        trial_m = _half(mean - trial * mean_q)
        levels = _levels(values, trial, trial_m, 0, top)
        trial_error = _weighted_error(values, trial * levels + trial_m, importance)
        better = trial_error < error
        d, m = np.where(better, trial, d), np.where(better, trial_m, m)
        q, error = np.where(better, levels, q), np.minimum(trial_error, error)
    return d, m, q


def _store(
    block: np.dtype[np.void], d: Floats, levels: Bytes | None = None, m: Floats | None = None
) -> Blocks:
    """Blocks with scale, offset and 4- or 5-bit levels (n, 32) in the places that `block` has for them."""
    blocks = np.zeros(len(d), block)
    with np.errstate(over="ignore"):
        blocks["d"] = d[:, 0]
        if m is not None:
            blocks["m"] = m[:, 0]
    if levels is not None:
        blocks["qs"] = (levels[:, :16] & 15) | (levels[:, 16:] << 4)
        if block.names is not None and "qh" in block.names:
            blocks["qh"] = np.packbits(levels >> 4, axis=1, bitorder="little")
    return blocks


def encode_q4_0(values: Floats, importance: Floats | None) -> Blocks:
    d, q = _symmetric(values, importance, 8)
    return _store(Q4_0, d, (q + 8).astype(np.uint8))


def encode_q4_1(values: Floats, importance: Floats | None) -> Blocks:
    d, m, q = _affine(values, importance, 15)
    return _store(Q4_1, d, q.astype(np.uint8), m)


def encode_q5_0(values: Floats, importance: Floats | None) -> Blocks:
    d, q = _symmetric(values, importance, 16)
    return _store(Q5_0, d, (q + 16).astype(np.uint8))


def encode_q5_1(values: Floats, importance: Floats | None) -> Blocks:
    d, m, q = _affine(values, importance, 31)
    return _store(Q5_1, d, q.astype(np.uint8), m)


def encode_q8_0(values: Floats, importance: Floats | None) -> Blocks:
    """Round to nearest at d = max |value| / 127; with 8 bits a search would gain nothing to speak of."""
    d = _half(np.abs(values).max(axis=1, keepdims=True) / np.float32(127))
    blocks = _store(Q8_0, d)
    blocks["qs"] = _levels(values, d, 0.0, -127, 127).astype(np.int8)
    return blocks


FORMATS: tuple[Format, ...] = (
    Format(GGMLType.Q4_0, Q4_0, decode_q4_0, encode_q4_0),
    Format(GGMLType.Q4_1, Q4_1, decode_q4_1, encode_q4_1),
    Format(GGMLType.Q5_0, Q5_0, decode_q5_0, encode_q5_0),
    Format(GGMLType.Q5_1, Q5_1, decode_q5_1, encode_q5_1),
    Format(GGMLType.Q8_0, Q8_0, decode_q8, encode_q8_0),
    Format(GGMLType.Q8_1, Q8_1, decode_q8),
    Format(GGMLType.IQ4_NL, IQ4_NL, decode_iq4_nl),
    Format(GGMLType.MXFP4, MXFP4, decode_mxfp4),
    Format(GGMLType.NVFP4, NVFP4, decode_nvfp4),
)
