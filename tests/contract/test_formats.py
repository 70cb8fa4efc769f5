"""Every format: its codec against the `gguf` package, its block layout, its encoder if it has one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf import quants as oracle
from numpy.typing import NDArray

from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant import FORMATS, decode, encode

# Integers and doubles are plain arrays and Q8_1 and Q8_K are never weights; the package decodes neither.
WITHOUT_ORACLE = {
    GGMLType.F64,
    GGMLType.I8,
    GGMLType.I16,
    GGMLType.I32,
    GGMLType.I64,
    GGMLType.Q8_1,
    GGMLType.Q8_K,
}
WITH_ORACLE = sorted(set(GGMLType) - WITHOUT_ORACLE)
ENCODABLE = sorted(kind for kind, format in FORMATS.items() if format.encode is not None)


def reference(kind: GGMLType, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = oracle.dequantize(raw.reshape(shape[0], -1), GGMLQuantizationType(kind))
    return np.asarray(values, np.float32)


def test_every_type_has_a_format() -> None:
    assert set(FORMATS) == set(GGMLType) == set(LAYOUTS)


@pytest.mark.parametrize("kind", sorted(GGMLType), ids=lambda kind: kind.name)
def test_the_block_structure_has_the_size_of_the_layout(kind: GGMLType) -> None:
    assert FORMATS[kind].type is kind
    assert FORMATS[kind].block.itemsize == LAYOUTS[kind].block_bytes


@pytest.mark.parametrize("kind", WITH_ORACLE, ids=lambda kind: kind.name)
def test_random_blocks_decode_as_in_the_gguf_package(kind: GGMLType) -> None:
    """Random bytes hold every kind of scale: zero, subnormal, infinite and NaN, too."""
    rng = np.random.default_rng(int(kind))
    shape = (16, 64 * LAYOUTS[kind].block_size)
    raw = rng.integers(0, 256, 16 * 64 * LAYOUTS[kind].block_bytes, dtype=np.uint8)
    found = decode(kind, raw, shape)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, reference(kind, raw, shape))


@pytest.mark.parametrize("kind", WITH_ORACLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [0x00, 0x7C, 0x7E, 0x80, 0xFC, 0xFF])
def test_blocks_of_one_byte_decode_as_in_the_gguf_package(kind: GGMLType, byte: int) -> None:
    shape = (1, LAYOUTS[kind].block_size)
    raw = np.full(LAYOUTS[kind].block_bytes, byte, np.uint8)
    np.testing.assert_array_equal(decode(kind, raw, shape), reference(kind, raw, shape))


@pytest.mark.parametrize("kind", ENCODABLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("scale", [1e-6, 0.02, 300.0])
def test_no_value_is_further_off_than_with_the_gguf_package(kind: GGMLType, scale: float) -> None:
    rng = np.random.default_rng(int(kind))
    values = (rng.standard_normal((8, 512)) * scale).astype(np.float32)
    values[0, :64] = 0
    values[1, :64] = 1.5 * scale
    values[2, :32] = np.abs(values[2, :32])
    found = decode(kind, encode(kind, values), values.shape)
    theirs = oracle.dequantize(
        oracle.quantize(values, GGMLQuantizationType(kind)), GGMLQuantizationType(kind)
    )
    assert (np.abs(found - values) <= np.abs(theirs - values)).all()


@pytest.mark.parametrize("kind", ENCODABLE, ids=lambda kind: kind.name)
def test_encoding_is_stable_once_encoded(kind: GGMLType) -> None:
    """Decoded values encode to values at most one rounding of the scale away."""
    rng = np.random.default_rng(int(kind))
    once = decode(kind, encode(kind, rng.standard_normal((4, 256)).astype(np.float32)), (4, 256))
    twice = decode(kind, encode(kind, once), (4, 256))
    np.testing.assert_allclose(twice, once, atol=float(np.abs(once).max()) * 2**-10)


@pytest.mark.parametrize("kind", ENCODABLE, ids=lambda kind: kind.name)
def test_importance_never_raises_the_weighted_error(kind: GGMLType) -> None:
    rng = np.random.default_rng(int(kind))
    values = rng.standard_normal((16, 512)).astype(np.float32)
    importance = (rng.random(512) ** 4).astype(np.float32)

    def error(encoded: NDArray[np.uint8]) -> float:
        return float((importance * np.square(decode(kind, encoded, values.shape) - values)).sum())

    assert error(encode(kind, values, importance)) <= error(encode(kind, values))
