"""Every native encoder: its error against llama.cpp's quantizer, the gguf package and the NumPy encoders."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf import quants as oracle
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant import FORMATS, decode, encode
from edgellm.quant.native import ENCODERS, decode_values, encode_rows, n_bytes, relative_error

pytest.importorskip("edgellm._native", reason="needs the built extension module")

# Root of (weighted) square error over square sum that llama.cpp's quantizer (llama-cpp-python 0.3.36,
# ggml_quantize_chunk) has on `sample()`: without importances, and with them (where it has such a mode).
LLAMA_CPP = {
    GGMLType.Q4_0: (0.087751, 0.081715),
    GGMLType.Q4_1: (0.079199, 0.067454),
    GGMLType.Q5_0: (0.043572, 0.040354),
    GGMLType.Q5_1: (0.038047, 0.032659),
    GGMLType.Q8_0: (0.005476, 0.005490),
    GGMLType.Q2_K: (0.298616, 0.250299),
    GGMLType.Q3_K: (0.153226, 0.140171),
    GGMLType.Q4_K: (0.072445, 0.068448),
    GGMLType.Q5_K: (0.036627, 0.034520),
    GGMLType.Q6_K: (0.018074, 0.016955),
    GGMLType.IQ4_NL: (0.076844, 0.073221),
    GGMLType.IQ4_XS: (0.077444, 0.073973),
    GGMLType.MXFP4: (0.116994, 0.116560),
}
NUMBERS = {GGMLType.F32, GGMLType.F16, GGMLType.BF16}
each = pytest.mark.parametrize("kind", sorted(ENCODERS), ids=lambda kind: kind.name)
each_block = pytest.mark.parametrize("kind", sorted(ENCODERS - NUMBERS), ids=lambda kind: kind.name)


def sample() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values (24, 1024), most of them normal and some Laplacian, and importances (1024,)."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal((24, 1024)).astype(np.float32) * np.float32(0.03)
    values *= (1 + rng.random((24, 1))).astype(np.float32)
    values[:4] = rng.laplace(size=(4, 1024)).astype(np.float32) * np.float32(0.02)
    return values, (rng.random(1024) ** 2 + 0.05).astype(np.float32)


def test_every_format_with_an_error_of_llama_cpp_has_an_encoder() -> None:
    assert set(LLAMA_CPP) == ENCODERS - NUMBERS


def test_the_table_of_formats_names_the_native_encoders() -> None:
    from edgellm import _native

    found = set()
    for kind in set(FORMATS) - {GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64, GGMLType.F64}:
        try:
            _native.quantize(int(kind), np.zeros((1, 256), np.float32), None, 1)
        except ValueError:
            continue
        found.add(kind)
    assert found == ENCODERS


@each_block
def test_the_error_is_below_that_of_llama_cpp(kind: GGMLType) -> None:
    values, importance = sample()
    plain, weighted = LLAMA_CPP[kind]
    assert relative_error(kind, encode_rows(kind, values, threads=1), values, threads=1) < plain
    encoded = encode_rows(kind, values, importance, threads=1)
    assert relative_error(kind, encoded, values, importance, threads=1) < weighted


@each
def test_bytes_decode_alike_natively_in_numpy_and_in_the_gguf_package(kind: GGMLType) -> None:
    values, _ = sample()
    encoded = encode_rows(kind, values, threads=1)
    assert encoded.size == n_bytes(kind, values.shape)
    decoded = decode(kind, encoded, values.shape)
    np.testing.assert_array_equal(decode_values(kind, encoded, values.shape, threads=2), decoded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = oracle.dequantize(encoded.reshape(len(values), -1), GGMLQuantizationType(kind))
    np.testing.assert_array_equal(np.asarray(theirs, np.float32), decoded)
    error = np.square(decoded.astype(np.float64) - values).sum() / np.square(values.astype(np.float64)).sum()
    np.testing.assert_allclose(relative_error(kind, encoded, values, threads=2), error**0.5, rtol=1e-6)


@each
@pytest.mark.parametrize("weighted", [False, True])
def test_bytes_depend_neither_on_threads_nor_on_the_instruction_set(kind: GGMLType, weighted: bool) -> None:
    values, importance = sample()
    weights = importance if weighted else None
    expected = encode_rows(kind, values, weights, threads=1)
    np.testing.assert_array_equal(encode_rows(kind, values, weights, threads=3), expected)
    np.testing.assert_array_equal(encode_rows(kind, values, weights, threads=1, scalar=True), expected)


@pytest.mark.parametrize(
    "kind", sorted(kind for kind in ENCODERS if FORMATS[kind].encode), ids=lambda kind: kind.name
)
def test_the_error_is_no_larger_than_that_of_numpy_and_of_the_gguf_package(kind: GGMLType) -> None:
    values, importance = sample()
    for scale in (1e-3, 1.0, 300.0):
        scaled = values * np.float32(scale)
        scaled[0, :64] = 0
        scaled[1, :64] = np.float32(1.5 * scale)
        found = relative_error(kind, encode_rows(kind, scaled, threads=1), scaled, threads=1)
        theirs = oracle.quantize(scaled, GGMLQuantizationType(kind)).reshape(-1).view(np.uint8)
        assert found <= relative_error(kind, theirs, scaled, threads=1)
        assert found <= relative_error(kind, encode(kind, scaled), scaled, threads=1)
        weighted = relative_error(
            kind, encode_rows(kind, scaled, importance, threads=1), scaled, importance, threads=1
        )
        specified = relative_error(kind, encode(kind, scaled, importance), scaled, importance, threads=1)
        assert weighted <= specified * 1.02  # the two search in different steps


@each
def test_values_on_the_levels_stay_what_they_are(kind: GGMLType) -> None:
    """Zeros, and whole rows of one value that the format can hold."""
    values = np.zeros((3, 512), np.float32)
    values[1] = 0.75
    values[2, ::3] = -2.0
    decoded = decode(kind, encode_rows(kind, values, threads=1), values.shape)
    np.testing.assert_array_equal(decoded[0], 0)
    np.testing.assert_allclose(decoded[1:], values[1:], atol=0.016 if kind != GGMLType.MXFP4 else 0.13)


@pytest.mark.parametrize("kind", [GGMLType.Q4_1, GGMLType.Q5_1])
def test_values_that_were_once_encoded_are_kept_exactly(kind: GGMLType) -> None:
    values, importance = sample()
    once = decode(GGMLType.Q4_1, encode(GGMLType.Q4_1, values), values.shape)
    for weights in (None, importance):
        encoded = encode_rows(kind, once, weights, threads=1)
        assert relative_error(kind, encoded, once, threads=1) < 1e-7


@each_block
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("at", [0, 700, 1023])
def test_values_that_no_block_can_hold_are_refused(kind: GGMLType, bad: float, at: int) -> None:
    values = np.ones((2, 1024), np.float32)
    values[1, at] = bad
    if kind == GGMLType.MXFP4 and np.isfinite(bad):
        assert np.isfinite(decode(kind, encode_rows(kind, values, threads=1), values.shape)).all()
        return
    with pytest.raises(ModelError, match=rf"NaN or infinite|too large.*{kind.name}"):
        encode_rows(kind, values, threads=2)


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.BF16])
def test_numbers_round_as_numpy_does_and_too_large_ones_are_refused(kind: GGMLType) -> None:
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((7, 129)) * 10.0 ** rng.integers(-9, 4, (7, 129))).astype(np.float32)
    np.testing.assert_array_equal(encode_rows(kind, values, threads=2), encode(kind, values))
    values[3, 5] = 3.4e38
    with pytest.raises(ModelError, match="too large"):
        encode_rows(kind, values, threads=2)


def test_importance_that_does_not_fit_is_refused() -> None:
    values, importance = sample()
    for bad in (importance[:-1], importance * np.float32(np.nan), -importance):
        with pytest.raises(ValueError, match="importances"):
            encode_rows(GGMLType.Q4_K, values, bad, threads=1)
    with pytest.raises(ValueError, match="whole blocks"):
        encode_rows(GGMLType.Q4_K, values[:, :100], threads=1)


@each_block
def test_columns_without_importance_do_no_harm(kind: GGMLType) -> None:
    values, importance = sample()
    importance[: LAYOUTS[kind].block_size * 2] = 0
    decoded = decode(kind, encode_rows(kind, values, importance, threads=1), values.shape)
    assert np.abs(decoded - values).max() < 0.3


@pytest.mark.parametrize("kind", [GGMLType.Q2_K, GGMLType.Q4_K, GGMLType.Q5_K], ids=lambda kind: kind.name)
def test_large_values_count_more_where_nothing_else_is_known(kind: GGMLType) -> None:
    """Formats with minimums lose less of the values that most sums are made of: models answer better."""
    values, _ = sample()
    large = np.abs(values) > np.quantile(np.abs(values), 0.9)
    found = []
    for weights in (None, np.ones(values.shape[1], np.float32)):
        raw = encode_rows(kind, values, weights, threads=1)
        off = decode_values(kind, raw, values.shape, threads=1) - values
        found.append(float(np.square(off[large]).sum()))
    assert found[0] < 0.97 * found[1]
