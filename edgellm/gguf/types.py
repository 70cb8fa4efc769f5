"""The tensor and value types of the GGUF container.

Source: the GGUF specification (ggml repository, docs/gguf.md). Numbers are part of the format.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Mix(NamedTuple):
    """A mix of formats that files are quantized to, named by the format of most of its matrices.

    number: in `general.file_type`. name: as llama.cpp spells it; in a mix that ends with _MOE only experts'
    matrices have the format. recipe: the name that `--type` takes; empty for a mix that is read, not written.
    """

    number: int
    name: str
    recipe: str = ""


def _mix(number: int, name: str) -> Mix:
    """A mix that can be written under its own name."""
    return Mix(number, name, name)


class GGMLType(IntEnum):
    """A tensor's storage format, one row each. Numbers that the specification has removed are not listed.

    A row: the number in the file; values and bytes of a block; the mixes it is the base of; whether
    native/quantize encodes it; the format of smaller blocks for rows that are not whole blocks.
    """

    block_size: int
    block_bytes: int
    mixes: tuple[Mix, ...]
    has_encoder: bool
    smaller: str

    def __new__(
        cls,
        number: int,
        block_size: int = 0,
        block_bytes: int = 0,
        mixes: tuple[Mix, ...] = (),
        has_encoder: bool = False,
        smaller: str = "",
    ) -> GGMLType:
        """A member from its row. Every row has sizes; GGMLType(number) finds a member and makes none."""
        self = int.__new__(cls, number)
        self._value_ = number
        self.block_size, self.block_bytes = block_size, block_bytes
        self.mixes, self.has_encoder, self.smaller = mixes, has_encoder, smaller
        return self

    F32 = 0, 1, 4, (_mix(0, "F32"),), True
    F16 = 1, 1, 2, (_mix(1, "F16"),), True
    Q4_0 = 2, 32, 18, (_mix(2, "Q4_0"),), True
    Q4_1 = 3, 32, 20, (_mix(3, "Q4_1"),), True
    Q5_0 = 6, 32, 22, (_mix(8, "Q5_0"),), True
    Q5_1 = 7, 32, 24, (_mix(9, "Q5_1"),), True
    Q8_0 = 8, 32, 34, (_mix(7, "Q8_0"),), True
    Q8_1 = 9, 32, 36
    Q2_K = 10, 256, 84, (_mix(10, "Q2_K"), Mix(21, "Q2_K_S")), True, "IQ4_NL"
    Q3_K = 11, 256, 110, (_mix(11, "Q3_K_S"), _mix(12, "Q3_K_M"), Mix(13, "Q3_K_L")), True, "IQ4_NL"
    Q4_K = 12, 256, 144, (_mix(14, "Q4_K_S"), _mix(15, "Q4_K_M")), True, "Q5_0"
    Q5_K = 13, 256, 176, (_mix(16, "Q5_K_S"), _mix(17, "Q5_K_M")), True, "Q5_1"
    Q6_K = 14, 256, 210, (_mix(18, "Q6_K"),), True, "Q8_0"
    Q8_K = 15, 256, 292
    IQ2_XXS = 16, 256, 66, (Mix(19, "IQ2_XXS"),)
    IQ2_XS = 17, 256, 74, (Mix(20, "IQ2_XS"),)
    IQ3_XXS = 18, 256, 98, (Mix(23, "IQ3_XXS"), Mix(22, "IQ3_XS"))
    IQ1_S = 19, 256, 50, (Mix(24, "IQ1_S"),)
    IQ4_NL = 20, 32, 18, (_mix(25, "IQ4_NL"),), True
    IQ3_S = 21, 256, 110, (Mix(26, "IQ3_S"), Mix(27, "IQ3_M"))
    IQ2_S = 22, 256, 82, (Mix(28, "IQ2_S"), Mix(29, "IQ2_M"))
    IQ4_XS = 23, 256, 136, (_mix(30, "IQ4_XS"),), True, "IQ4_NL"
    I8 = 24, 1, 1
    I16 = 25, 1, 2
    I32 = 26, 1, 4
    I64 = 27, 1, 8
    F64 = 28, 1, 8
    IQ1_M = 29, 256, 56, (Mix(31, "IQ1_M"),)
    BF16 = 30, 1, 2, (_mix(32, "BF16"),), True
    TQ1_0 = 34, 256, 54, (Mix(36, "TQ1_0"),)
    TQ2_0 = 35, 256, 66, (Mix(37, "TQ2_0"),)
    MXFP4 = 39, 32, 17, (Mix(38, "MXFP4_MOE", "MXFP4"),), True
    NVFP4 = 40, 64, 36, (Mix(39, "NVFP4"),)


class Layout(NamedTuple):
    """`block_size` values take `block_bytes` bytes."""

    block_size: int
    block_bytes: int


LAYOUTS: dict[GGMLType, Layout] = {kind: Layout(kind.block_size, kind.block_bytes) for kind in GGMLType}


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
