"""The IQ formats: 256 values as indices into grids of 4 or 8 values, with signs apart.

IQ2 and IQ3 grids hold magnitudes; each group of 8 values has 8 sign bits (1: negative), given in full
(the `_S` formats) or as 7 bits whose parity is the eighth. IQ1 grids hold -1, 0 and 1, which a shift of
an eighth moves up or down. Source: ggml's block structures.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgellm.gguf.types import GGMLType
from edgellm.quant.format import Blocks, Bytes, Floats, Format, column, fields, planes
from edgellm.quant.iq_grids import grid
from edgellm.quant.simple import IQ4_LEVELS

IQ2_XXS = np.dtype([("d", "<f2"), ("qs", [("grid", "u1", 4), ("signs", "<u4")], 8)])
IQ2_XS = np.dtype([("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)])
IQ2_S = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)])
IQ3_XXS = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("signs", "<u4", 8)])
IQ3_S = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])
IQ1_S = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)])
IQ1_M = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)])
IQ4_XS = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", (8, 16))])

_SHIFT = np.float32(0.125)


def _signs(bits: Bytes) -> Floats:
    """(..., m) bytes to (..., 8 m) factors 1 or -1, lowest bit first."""
    ones = np.unpackbits(bits, axis=-1, bitorder="little")
    return np.float32(1) - np.float32(2) * ones


@cache
def _parity_signs() -> Bytes:
    """(128,) the 8 sign bits that 7 bits stand for: the eighth makes the number of ones even."""
    low = np.arange(128, dtype=np.uint8)
    odd = np.unpackbits(low[:, None], axis=1).sum(axis=1).astype(np.uint8) & 1
    signs: Bytes = low | (odd << 7)
    return signs


def _packed_signs(words: NDArray[np.uint32]) -> Floats:
    """(n, 8) words to (n, 256) factors: four times 7 bits per word, lowest first, parity gives the eighth."""
    sevens = (words[:, :, None] >> np.array((0, 7, 14, 21), np.uint32)) & np.uint32(127)
    return _signs(_parity_signs()[sevens].reshape(len(words), 32))


def _scaled(scale: Floats, magnitudes: Floats, signs: Floats) -> Floats:
    """scale per group (n, g) times magnitudes (n, ..., ...) times signs (n, 256)."""
    n = len(scale)
    return (scale[:, :, None] * magnitudes.reshape(n, scale.shape[1], -1)).reshape(n, 256) * signs


def _shifted(scale: Floats, points: Floats, shift: Floats) -> Floats:
    """Scale per group (n, g) times points (n, g, 256 / g) moved by a shift per group (n, g)."""
    values: Floats = scale[:, :, None] * (points + shift[:, :, None])
    return values.reshape(-1, 256)


def decode_iq2_xxs(blocks: Blocks) -> Floats:
    """66 bytes: f16 d; per 32 values 4 grid indices and a word.

    A word: 4 x 7 sign bits, then a 4-bit scale s. Value: d * (s + 1/2) / 4 * grid * sign.
    """
    words = blocks["qs"]["signs"]
    scale = column(blocks["d"]) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.25)
    return _scaled(scale, grid("iq2_xxs")[blocks["qs"]["grid"]], _packed_signs(words))


def decode_iq2_xs(blocks: Blocks) -> Floats:
    """74 bytes: f16 d; 32 words of 9 bits grid index and 7 bits signs; 16 4-bit scales s.

    Value: d * (s + 1/2) / 4 * grid * sign; a scale for 16 values, two per byte, low first.
    """
    s = fields(blocks["scales"], 4).reshape(-1, 16).astype(np.float32)
    scale = column(blocks["d"]) * (np.float32(0.5) + s) * np.float32(0.25)
    signs = _signs(_parity_signs()[blocks["qs"] >> 9])
    return _scaled(scale, grid("iq2_xs")[blocks["qs"] & 511], signs)


def decode_iq2_s(blocks: Blocks) -> Floats:
    """82 bytes: f16 d; 32 low bytes of grid indices; 32 sign bytes; 64 high index bits; 16 4-bit scales s.

    Value: d * (s + 1/2) / 4 * grid * sign; a scale for 16 values, two per byte, low first.
    """
    s = fields(blocks["scales"], 4).reshape(-1, 16).astype(np.float32)
    scale = column(blocks["d"]) * (np.float32(0.5) + s) * np.float32(0.25)
    high = fields(blocks["qh"], 2).reshape(-1, 32).astype(np.uint16)
    return _scaled(scale, grid("iq2_s")[blocks["qs"] | (high << 8)], _signs(blocks["signs"]))


def decode_iq3_xxs(blocks: Blocks) -> Floats:
    """98 bytes: f16 d; 64 grid indices of 4 values each; a word per 32 values.

    A word: 4 x 7 sign bits, then a 4-bit scale s. Value: d * (s + 1/2) / 2 * grid * sign.
    """
    words = blocks["signs"]
    scale = column(blocks["d"]) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.5)
    return _scaled(scale, grid("iq3_xxs")[blocks["qs"]], _packed_signs(words))


def decode_iq3_s(blocks: Blocks) -> Floats:
    """110 bytes: f16 d; 64 low bytes of grid indices; 64 ninth bits; 32 sign bytes; 8 4-bit scales s.

    Value: d * (2 s + 1) * grid * sign, a scale for 32 values, two per byte, low first.
    """
    s = fields(blocks["scales"], 4).reshape(-1, 8).astype(np.float32)
    high = np.unpackbits(blocks["qh"], axis=1, bitorder="little").astype(np.uint16)
    magnitudes = grid("iq3_s")[blocks["qs"] | (high << 8)]
    return _scaled(column(blocks["d"]) * (1 + 2 * s), magnitudes, _signs(blocks["signs"]))


def decode_iq1_s(blocks: Blocks) -> Floats:
    """50 bytes: f16 d; 32 low bytes of grid indices; 8 words for 32 values each.

    A word: 4 x 3 high index bits, 3 bits scale s, the shift's sign. Value: d * (2 s + 1) * (grid +- 1/8).
    """
    words = blocks["qh"]
    scale = column(blocks["d"]) * (2 * ((words >> 12) & 7) + 1).astype(np.float32)
    shift = np.where(words & 0x8000, -_SHIFT, _SHIFT)
    high = (words[:, :, None] >> np.array((0, 3, 6, 9), np.uint16)) & 7
    points = grid("iq1_s")[blocks["qs"] | (high.reshape(-1, 32) << 8)].reshape(-1, 8, 32)
    return _shifted(scale, points, shift)


def decode_iq1_m(blocks: Blocks) -> Floats:
    """56 bytes: 32 low bytes of grid indices; 32 nibbles; 4 scale words.

    A nibble: 3 high index bits and the sign of a shift for 8 values. A scale word: four 3-bit scales s of
    16 values each, and on top 4 bits of the f16 d, the first word's the lowest.
    Value: d * (2 s + 1) * (grid +- 1/8).
    """
    words = blocks["scales"]
    tops = (words >> 12) << np.array((0, 4, 8, 12), np.uint16)
    d = column(np.bitwise_or.reduce(tops, axis=1).astype(np.uint16).view(np.float16))
    s = (words[:, :, None] >> np.array((0, 3, 6, 9), np.uint16)) & 7
    scale = (d * (2 * s.reshape(-1, 16) + 1).astype(np.float32)).repeat(2, axis=1)
    nibbles = fields(blocks["qh"], 4).reshape(-1, 32)
    shift = np.where(nibbles & 8, -_SHIFT, _SHIFT)
    points = grid("iq1_s")[blocks["qs"] | ((nibbles & 7).astype(np.uint16) << 8)]
    return _shifted(scale, points, shift)


def decode_iq4_xs(blocks: Blocks) -> Floats:
    """136 bytes: f16 d; 8 x 2 high scale bits; 8 x 4 low scale bits; 128 bytes of 4-bit q.

    q: eight times 32 values in two planes of 16. Value: d * (scale - 32) * level[q], the levels of IQ4_NL.
    """
    low = fields(blocks["scales_l"], 4).reshape(-1, 8)
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    scale = column(blocks["d"]) * ((low | (high << 4)).astype(np.float32) - 32)
    q = planes(blocks["qs"], 4).reshape(-1, 8, 32)
    return (scale[:, :, None] * IQ4_LEVELS[q]).reshape(-1, 256)


FORMATS: tuple[Format, ...] = (
    Format(GGMLType.IQ2_XXS, IQ2_XXS, decode_iq2_xxs),
    Format(GGMLType.IQ2_XS, IQ2_XS, decode_iq2_xs),
    Format(GGMLType.IQ2_S, IQ2_S, decode_iq2_s),
    Format(GGMLType.IQ3_XXS, IQ3_XXS, decode_iq3_xxs),
    Format(GGMLType.IQ3_S, IQ3_S, decode_iq3_s),
    Format(GGMLType.IQ1_S, IQ1_S, decode_iq1_s),
    Format(GGMLType.IQ1_M, IQ1_M, decode_iq1_m),
    Format(GGMLType.IQ4_XS, IQ4_XS, decode_iq4_xs),
)
