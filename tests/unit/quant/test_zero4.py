"""4-bit weights with zero points: the layout, the error, and the same bytes everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.gguf.types import GGMLType

native = pytest.importorskip("edgellm.quant.native", reason="needs the built extension module")
pytest.importorskip("edgellm._native", reason="needs the built extension module")

from edgellm import _native  # noqa: E402
from edgellm.quant import zero4  # noqa: E402


def sample(rows: int = 24, cols: int = 160) -> NDArray[np.float32]:
    values = np.random.default_rng(7).standard_normal((rows, cols)).astype(np.float32)
    values[1, :64] = 0
    values[2] = np.abs(values[2])
    values[3] *= 1e-6
    return values


def test_arrays_decode_to_what_the_error_says() -> None:
    values = sample()
    encoded = zero4.encode(values, threads=2)
    assert encoded.codes.shape == (24, 5, 16)
    assert encoded.scales.shape == (24, 5)
    assert encoded.zero_points.shape == (24, 3)
    off = zero4.decode(encoded).astype(np.float64) - values
    np.testing.assert_allclose(np.square(off).sum(), encoded.error, rtol=1e-6)
    assert not off[1, :64].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_is_smaller_than_without_zero_points(weighted: bool) -> None:
    values = sample()
    importance = np.geomspace(0.01, 10, 160, dtype=np.float32) if weighted else None
    encoded = zero4.encode(values, importance, threads=1)
    raw = native.encode_rows(GGMLType.Q4_0, values, importance, threads=1)
    error, power = native.square_error(GGMLType.Q4_0, raw, values, importance, threads=1)
    assert encoded.power == power
    assert encoded.error < error


def test_values_of_a_symmetric_format_lose_next_to_nothing() -> None:
    raw = native.encode_rows(GGMLType.Q4_0, sample(), threads=1)
    values = native.decode_values(GGMLType.Q4_0, raw, (24, 160), threads=1)
    encoded = zero4.encode(values, threads=1)
    assert encoded.error < 1e-4 * encoded.power


def test_bytes_depend_neither_on_threads_nor_on_the_instruction_set() -> None:
    values = sample()
    raw = _native.quantize(1000, values, None, 1, True)
    np.testing.assert_array_equal(_native.quantize(1000, values, None, 3), raw)


def test_damaged_values_are_refused() -> None:
    values = sample()
    values[5, 5] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        zero4.encode(values, threads=1)
