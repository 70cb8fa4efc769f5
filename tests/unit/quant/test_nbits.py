"""Weights of MatMulNBits: the layout, the error, and the same bytes everywhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.gguf.types import GGMLType

native = pytest.importorskip("edgellm.quant.native", reason="needs the built extension module")
pytest.importorskip("edgellm._native", reason="needs the built extension module")

from edgellm.quant import nbits  # noqa: E402
from edgellm.quant.nbits import KINDS, Kind  # noqa: E402

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def sample(rows: int = 24, cols: int = 160) -> NDArray[np.float32]:
    values = np.random.default_rng(7).standard_normal((rows, cols)).astype(np.float32)
    values[1, :64] = 0
    values[2] = np.abs(values[2])
    values[3] *= 1e-6
    values[4] = 0
    # One block far larger than the others of its row.
    values[5, 32:64] *= 100
    return values


@every_kind
def test_arrays_decode_to_what_the_error_says(kind: Kind) -> None:
    values = sample()
    encoded = nbits.encode(kind, values, threads=2)
    assert all(part.shape == (24, 5, kind.part_bytes) for part in encoded.parts)
    assert encoded.roots.shape == (24, 5)
    assert encoded.units.shape == (24, 1)
    n_bytes = sum(part.nbytes for part in encoded.parts) + encoded.roots.nbytes + encoded.units.nbytes
    assert n_bytes == kind.n_bytes(values.shape)
    off = nbits.decode(kind, encoded).astype(np.float64) - values
    np.testing.assert_allclose(np.square(off).sum(), encoded.error, rtol=1e-6)
    assert not off[1, :64].any()
    assert not off[4].any()
    # Square roots keep the small scales of a row nearly exact.
    for block, most in ((off[0], 0.012), (off[3] / 1e-6, 0.012), (off[5, 64:], 0.016)):
        assert np.square(block).mean() < most * 4.0 ** (4 - kind.bits)


@every_kind
def test_codes_are_all_there_in_every_arrangement(kind: Kind) -> None:
    codes = np.random.default_rng(3).integers(0, 1 << kind.bits, (7, 5, 32), dtype=np.uint8)
    np.testing.assert_array_equal(nbits._unpacked(kind, nbits._packed(kind, codes)), codes)


@pytest.mark.parametrize("weighted", [False, True])
def test_four_bits_lose_as_little_as_those_of_gguf(weighted: bool) -> None:
    values = sample()[6:]
    importance = np.geomspace(0.01, 10, 160, dtype=np.float32) if weighted else None
    encoded = nbits.encode(KINDS["int4"], values, importance, threads=1)
    raw = native.encode_rows(GGMLType.Q4_0, values, importance, threads=1)
    error, power = native.square_error(GGMLType.Q4_0, raw, values, importance, threads=1)
    np.testing.assert_allclose(encoded.power, power, rtol=1e-6)
    assert encoded.error < 1.1 * error


def test_more_bits_lose_less() -> None:
    errors = [nbits.encode(kind, sample(), threads=1).error for kind in KINDS.values()]
    for more, less in pairwise(errors):
        assert less < more / 3


@every_kind
def test_bytes_depend_neither_on_threads_nor_on_the_instruction_set(kind: Kind) -> None:
    one = nbits.encode(kind, sample(), threads=1, scalar=True)
    other = nbits.encode(kind, sample(), threads=3)
    for a, b in zip((*one.parts, one.roots), (*other.parts, other.roots), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("bad", "text"), [(np.nan, "NaN"), (np.inf, "NaN or infinite"), (1e9, "too large")])
def test_damaged_values_are_refused(bad: float, text: str) -> None:
    values = sample()
    values[5, 5] = bad
    with pytest.raises(ModelError, match=text):
        nbits.encode(KINDS["int4"], values, threads=1)
