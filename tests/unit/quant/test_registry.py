"""decode and encode: shapes, pieces, refusals, and codecs without an oracle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import ModelError, UnsupportedError
from edgellm.gguf.types import GGMLType
from edgellm.quant import FORMATS, decode, encode
from edgellm.quant.simple import Q8_1

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (GGMLType.I8, "i1"),
        (GGMLType.I16, "<i2"),
        (GGMLType.I32, "<i4"),
        (GGMLType.I64, "<i8"),
        (GGMLType.F64, "<f8"),
    ],
)
def test_plain_numbers(kind: GGMLType, dtype: str) -> None:
    numbers = np.array([[0, 1, -2], [3, 100, -128]], dtype)
    np.testing.assert_array_equal(decode(kind, numbers.reshape(-1).view(np.uint8), (2, 3)), numbers)


def test_q8_1_and_q8_k() -> None:
    q8_1 = np.zeros(1, Q8_1)
    q8_1["d"], q8_1["qs"] = 0.5, np.arange(-16, 16)
    np.testing.assert_array_equal(decode(GGMLType.Q8_1, q8_1.view(np.uint8), (32,)), np.arange(-16, 16) * 0.5)
    q8_k = np.zeros(1, FORMATS[GGMLType.Q8_K].block)
    q8_k["d"], q8_k["qs"] = 0.25, np.arange(-128, 128)
    np.testing.assert_array_equal(
        decode(GGMLType.Q8_K, q8_k.view(np.uint8), (256,)), np.arange(-128, 128) * 0.25
    )


def test_large_tensors_are_worked_on_in_pieces() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 3, 65536)).astype(np.float32)
    whole = decode(GGMLType.Q8_0, encode(GGMLType.Q8_0, values), values.shape)
    rows = [decode(GGMLType.Q8_0, encode(GGMLType.Q8_0, row), row.shape) for row in values.reshape(6, -1)]
    np.testing.assert_array_equal(whole.reshape(6, -1), np.stack(rows))


def test_importance_of_one_row_is_that_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5, 96)).astype(np.float32)
    row = rng.random(96).astype(np.float32)
    np.testing.assert_array_equal(
        encode(GGMLType.Q4_0, values, row), encode(GGMLType.Q4_0, values, np.tile(row, (5, 1)))
    )
    with pytest.raises(ValueError, match="importances of shape"):
        encode(GGMLType.Q4_0, values, row[:32])


def test_encoded_bytes_of_q4_0() -> None:
    values = np.concatenate((np.arange(-8, 8), np.arange(-8, 8))).astype(np.float32)
    raw = encode(GGMLType.Q4_0, values)
    assert raw[:2].view(np.float16)[0] == 1.0
    assert raw[2:].tolist() == [i | i << 4 for i in range(16)]


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_1, GGMLType.Q8_0])
def test_values_a_block_cannot_hold_are_refused(kind: GGMLType) -> None:
    values = np.zeros(32, np.float32)
    values[3] = np.nan
    with pytest.raises(ModelError, match=f"NaN or infinite.*{kind.name}"):
        encode(kind, values)
    values[3] = 1e30
    with pytest.raises(ModelError, match=f"too large.*{kind.name}"):
        encode(kind, values)


def test_f16_refuses_what_would_become_infinite_and_keeps_what_is() -> None:
    with pytest.raises(ModelError, match="too large"):
        encode(GGMLType.F16, np.array([1e6], np.float32))
    kept = np.array([np.inf, -np.inf, 1.0], np.float32)
    np.testing.assert_array_equal(decode(GGMLType.F16, encode(GGMLType.F16, kept), (3,)), kept)


def test_bf16_keeps_nan() -> None:
    nan = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(decode(GGMLType.BF16, encode(GGMLType.BF16, nan), (3,))).all()


def test_a_format_without_encoder_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="IQ1_S can be read but not written"):
        encode(GGMLType.IQ1_S, np.zeros(256, np.float32))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="are not a Q4_0 tensor"):
        decode(GGMLType.Q4_0, np.zeros(18, np.uint8), (64,))
    with pytest.raises(ValueError, match="are not a Q4_0 tensor"):
        decode(GGMLType.Q4_0, np.zeros(18, np.uint8), (31,))
    with pytest.raises(ValueError, match="not whole Q4_0 blocks"):
        encode(GGMLType.Q4_0, np.zeros((2, 48), np.float32))


def test_empty_tensors() -> None:
    assert decode(GGMLType.F32, np.empty(0, np.uint8), (0,)).shape == (0,)


def test_the_grids_are_what_the_generator_writes() -> None:
    script = ROOT / "native" / "formats" / "make_iq_grids.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
