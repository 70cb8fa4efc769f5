"""The tensor and value types of the GGUF container.

Source: the GGUF specification (ggml repository, docs/gguf.md). Type numbers are part of the format.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class GGMLType(IntEnum):
    """A tensor's storage format, by its number in the file. Removed numbers are not listed."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39


class Layout(NamedTuple):
    """How one type stores values: `block_size` values take `block_bytes` bytes."""

    block_size: int
    block_bytes: int


LAYOUTS: dict[GGMLType, Layout] = {
    GGMLType.F32: Layout(1, 4),
    GGMLType.F16: Layout(1, 2),
    GGMLType.Q4_0: Layout(32, 18),
    GGMLType.Q4_1: Layout(32, 20),
    GGMLType.Q5_0: Layout(32, 22),
    GGMLType.Q5_1: Layout(32, 24),
    GGMLType.Q8_0: Layout(32, 34),
    GGMLType.Q8_1: Layout(32, 36),
    GGMLType.Q2_K: Layout(256, 84),
    GGMLType.Q3_K: Layout(256, 110),
    GGMLType.Q4_K: Layout(256, 144),
    GGMLType.Q5_K: Layout(256, 176),
    GGMLType.Q6_K: Layout(256, 210),
    GGMLType.Q8_K: Layout(256, 292),
    GGMLType.IQ2_XXS: Layout(256, 66),
    GGMLType.IQ2_XS: Layout(256, 74),
    GGMLType.IQ3_XXS: Layout(256, 98),
    GGMLType.IQ1_S: Layout(256, 50),
    GGMLType.IQ4_NL: Layout(32, 18),
    GGMLType.IQ3_S: Layout(256, 110),
    GGMLType.IQ2_S: Layout(256, 82),
    GGMLType.IQ4_XS: Layout(256, 136),
    GGMLType.I8: Layout(1, 1),
    GGMLType.I16: Layout(1, 2),
    GGMLType.I32: Layout(1, 4),
    GGMLType.I64: Layout(1, 8),
    GGMLType.F64: Layout(1, 8),
    GGMLType.IQ1_M: Layout(256, 56),
    GGMLType.BF16: Layout(1, 2),
    GGMLType.TQ1_0: Layout(256, 54),
    GGMLType.TQ2_0: Layout(256, 66),
    GGMLType.MXFP4: Layout(32, 17),
}


class ValueType(IntEnum):
    """The type of a metadata value, by its number in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12
