"""Formats without blocks: one number per value, little-endian."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgellm.gguf.types import GGMLType
from edgellm.quant.format import Blocks, Floats, Format


def decode_numbers(blocks: Blocks) -> Floats:
    """F32, F16, F64, I8, I16, I32, I64: the number itself, rounded to float32 where it has more digits."""
    with np.errstate(over="ignore"):
        return blocks.astype(np.float32)[:, None]


def encode_f32(values: Floats, importance: Floats | None) -> Blocks:
    return values[:, 0].astype("<f4")


def encode_f16(values: Floats, importance: Floats | None) -> Blocks:
    """IEEE half, round to nearest even; too large values become infinite."""
    with np.errstate(over="ignore"):
        return values[:, 0].astype("<f2")


def decode_bf16(blocks: Blocks) -> Floats:
    """BF16: the upper 16 bits of a float32."""
    return (blocks.astype(np.uint32) << np.uint32(16)).view(np.float32)[:, None]


def encode_bf16(values: Floats, importance: Floats | None) -> Blocks:
    """Round to nearest even; of a NaN the highest fraction bit is set, so that it stays one."""
    bits = np.ascontiguousarray(values[:, 0], np.float32).view(np.uint32).astype(np.uint64)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = np.where(nan, bits | 0x00400000, bits + 0x7FFF + ((bits >> 16) & 1))
    return (rounded >> 16).astype("<u2")


def _numbers(kind: GGMLType, dtype: str) -> Format:
    block: np.dtype[Any] = np.dtype(dtype)
    return Format(kind, block, decode_numbers)


FORMATS: tuple[Format, ...] = (
    Format(GGMLType.F32, np.dtype("<f4"), decode_numbers, encode_f32),
    Format(GGMLType.F16, np.dtype("<f2"), decode_numbers, encode_f16),
    Format(GGMLType.BF16, np.dtype("<u2"), decode_bf16, encode_bf16),
    _numbers(GGMLType.F64, "<f8"),
    _numbers(GGMLType.I8, "<i1"),
    _numbers(GGMLType.I16, "<i2"),
    _numbers(GGMLType.I32, "<i4"),
    _numbers(GGMLType.I64, "<i8"),
)
