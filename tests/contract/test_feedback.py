"""Error feedback: less output error than the encoder alone, the same bytes for any threads and set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.gguf.types import GGMLType
from edgellm.quant import native, nbits
from edgellm.quant.feedback import Feedback, takes_feedback
from edgellm.quant.matrix import add_moments, exponentials, mirror, multiply

pytest.importorskip("edgellm._native", reason="needs the built extension module")

Floats = NDArray[np.float32]
COLS, ROWS = 512, 29
KINDS = [kind for kind in GGMLType if kind.name in (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")]  # fmt: skip


@pytest.fixture(scope="module")
def inputs() -> Floats:
    """Rows whose columns move together, and differ in size."""
    rng = np.random.default_rng(3)
    common = rng.standard_normal((900, 40)) @ rng.standard_normal((40, COLS))
    own = rng.standard_normal((900, COLS)) * np.exp(rng.standard_normal(COLS))
    return (0.3 * common + own).astype(np.float32)


@pytest.fixture(scope="module")
def moments(inputs: Floats) -> Floats:
    sums = np.zeros((COLS, COLS), np.float32)
    add_moments(inputs, sums, threads=2)
    mirror(sums)
    return sums / np.float32(len(inputs))


@pytest.fixture(scope="module")
def values() -> Floats:
    return (np.random.default_rng(4).standard_normal((ROWS, COLS)) * 0.05).astype(np.float32)


def output_error(kind: GGMLType, raw: NDArray[np.uint8], values: Floats, moments: Floats) -> float:
    off = (native.decode_values(kind, raw, values.shape, threads=1) - values).astype(np.float64)
    return float(np.einsum("ij,jk,ik->", off, moments.astype(np.float64), off))


def test_these_formats_take_feedback() -> None:
    assert [kind for kind in GGMLType if takes_feedback(kind)] == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_lose_less_and_bytes_depend_on_nothing(
    kind: GGMLType, moments: Floats, values: Floats
) -> None:
    raw = Feedback(moments, kind.block_size, threads=1).encode(kind, values)
    importance = np.ascontiguousarray(moments.diagonal() / moments.diagonal().mean())
    alone = native.encode_rows(kind, values, importance, threads=1)
    assert output_error(kind, raw, values, moments) < 0.6 * output_error(kind, alone, values, moments)
    other = Feedback(moments, kind.block_size, threads=3, scalar=True).encode(kind, values)
    np.testing.assert_array_equal(raw, other)
    # Rows do not depend on those encoded with them.
    np.testing.assert_array_equal(
        Feedback(moments, kind.block_size, threads=1).encode(kind, values[:3]), raw[: 3 * raw.size // ROWS]
    )


def test_each_column_is_rounded_to_what_the_ones_before_leave(moments: Floats, values: Floats) -> None:
    """At most half a step is left of a column's sum, computed in float64, unless its code is an outermost."""
    kind, shrink, damp, block = GGMLType.Q4_0, 0.2, 0.01, 32
    wide = (1 - shrink) * moments.astype(np.float64)
    own = moments.diagonal() + damp * moments.diagonal().mean(dtype=np.float64)
    np.fill_diagonal(wide, own)
    blocks = np.argsort(-own.reshape(-1, block).sum(axis=1), kind="stable")
    inside = np.argsort(-own.reshape(-1, block), axis=1, kind="stable")
    order = np.concatenate([b * block + inside[b] for b in blocks])
    flipped = np.linalg.cholesky(wide[np.ix_(order, order)][::-1, ::-1])[::-1, ::-1]
    passed_on = flipped / flipped.diagonal()

    def share_left(raw: NDArray[np.uint8]) -> float:
        parts = raw.reshape(ROWS, -1, 18)
        steps = np.abs(parts[..., :2].copy().view(np.float16).astype(np.float64))
        codes = np.concatenate((parts[..., 2:] & 15, parts[..., 2:] >> 4), axis=2)
        errors = values - native.decode_values(kind, raw, values.shape, threads=1)
        left = np.abs(errors[:, order].astype(np.float64) @ np.triu(passed_on))
        more = left > 0.501 * np.repeat(steps[..., 0], block, axis=1)[:, order]
        return float(more[((codes > 0) & (codes < 15)).reshape(values.shape)[:, order]].mean())

    assert share_left(Feedback(moments, block, threads=1, shrink=shrink, damp=damp).encode(kind, values)) == 0
    assert share_left(native.encode_rows(kind, values, None, threads=1)) > 0.1


@pytest.mark.parametrize("kind", list(nbits.KINDS.values())[:3], ids=lambda kind: kind.name)
def test_onnx_runtimes_blocks_lose_less_too(kind: nbits.Kind, moments: Floats, values: Floats) -> None:
    importance = np.ascontiguousarray(moments.diagonal() / moments.diagonal().mean())
    lost = []
    for feedback in (Feedback(moments, nbits.BLOCK, threads=2), None):
        off = nbits.decode(kind, nbits.encode(kind, values, importance, feedback, threads=1)) - values
        lost.append(float(np.einsum("ij,jk,ik->", off, moments, off, dtype=np.float64)))
    assert lost[0] < 0.6 * lost[1]


def test_independent_columns_change_nothing(values: Floats) -> None:
    kind = GGMLType.Q4_K
    squares = np.exp(np.random.default_rng(6).standard_normal(COLS)).astype(np.float32)
    raw = Feedback(np.diag(squares), 256, threads=1, damp=0.0).encode(kind, values)
    alone = native.encode_rows(kind, values, squares / squares.mean(), threads=1)
    assert (raw == alone).mean() > 0.999


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_values_that_no_block_can_hold_are_refused(moments: Floats, values: Floats, bad: float) -> None:
    damaged = values.copy()
    damaged[7, 300] = bad
    with pytest.raises(ModelError):
        Feedback(moments, 256, threads=2).encode(GGMLType.Q4_K, damaged)


def test_moments_of_nothing_and_other_shapes_are_refused(moments: Floats, values: Floats) -> None:
    for bad in (np.zeros((COLS, COLS)), np.full((COLS, COLS), np.nan), -np.eye(COLS), moments[:, :256]):
        with pytest.raises(ValueError, match="moments"):
            Feedback(bad.astype(np.float32), 256, threads=1)
    with pytest.raises(ValueError, match="shapes"):
        Feedback(moments, 32, threads=1).encode(GGMLType.Q4_K, values)
    with pytest.raises(ValueError, match="no feedback"):
        Feedback(moments, 32, threads=1).encode(GGMLType.Q8_0, values)


def test_products_are_the_same_bits_for_any_threads_and_set(inputs: Floats, values: Floats) -> None:
    x, weights = inputs[:301, :501], values[:, :501]
    product = multiply(x, weights, threads=1)
    np.testing.assert_allclose(product, x.astype(np.float64) @ weights.T.astype(np.float64), atol=1e-4)
    np.testing.assert_array_equal(product, multiply(x, weights, threads=3, scalar=True))
    sums, others = np.zeros((501, 501), np.float32), np.zeros((501, 501), np.float32)
    add_moments(x, sums, threads=1)
    add_moments(x, others, threads=3, scalar=True)
    np.testing.assert_array_equal(sums, others)
    mirror(sums)
    np.testing.assert_allclose(sums, x.T.astype(np.float64) @ x.astype(np.float64), rtol=1e-6, atol=1e-2)


def test_exponentials_are_the_same_bits_for_any_set() -> None:
    rng = np.random.default_rng(8)
    x = np.concatenate((rng.standard_normal(10001) * 30, [0, -0.0, 700, -700, -745, -np.inf, 708.9]))
    found = exponentials(x, threads=1)
    np.testing.assert_array_equal(found, exponentials(x, threads=2, scalar=True))
    np.testing.assert_allclose(found[:-4], np.exp(x[:-4]), rtol=1e-15)
    np.testing.assert_array_equal(
        exponentials(np.array([[-745.0, -np.inf, np.nan]]), threads=1), [[0, 0, np.nan]]
    )
    most = exponentials(np.array([709.0, 710.0, np.inf]), threads=1)
    assert (most == most[0]).all()
