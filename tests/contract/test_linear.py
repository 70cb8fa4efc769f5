"""Weight decoders and linear kernels, every format and instruction set, against the NumPy codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm import _native
from edgellm import _native_kernels as kernels
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant import FORMATS, decode

Array = npt.NDArray[Any]

ISAS: list[str] = _native.usable_isas()
FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
# Integers and doubles are never weights, Q8_1 and Q8_K only ever activations.
NO_WEIGHTS = {
    GGMLType.F64,
    GGMLType.I8,
    GGMLType.I16,
    GGMLType.I32,
    GGMLType.I64,
    GGMLType.Q8_1,
    GGMLType.Q8_K,
}
WEIGHTS = sorted(set(GGMLType) - NO_WEIGHTS)

every_isa = pytest.mark.parametrize("isa", ISAS)
every_format = pytest.mark.parametrize("kind", WEIGHTS, ids=lambda kind: kind.name)


def random_rows(kind: GGMLType, n_out: int, n_in: int, seed: int = 0) -> Array:
    """Rows whose codes are random bytes and whose scales are small finite numbers, as raw bytes."""
    rng = np.random.default_rng([seed, int(kind)])
    layout = LAYOUTS[kind]
    n = n_out * n_in // layout.block_size
    if kind in FLOATS:
        values = rng.standard_normal(n).astype(np.float32)
        if kind is GGMLType.BF16:
            return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)
        return values.astype(FORMATS[kind].block).view(np.uint8)
    blocks = rng.integers(0, 256, n * layout.block_bytes, dtype=np.uint8).view(FORMATS[kind].block)
    scale = rng.uniform(-0.1, 0.1, (3, n)).astype(np.float16)
    for name, values in zip(("d", "dmin", "m"), scale, strict=True):
        if name in (blocks.dtype.names or ()):
            blocks[name] = values
    if kind is GGMLType.MXFP4:
        blocks.view(np.uint8).reshape(n, -1)[:, 0] = rng.integers(115, 125, n)
    if kind is GGMLType.IQ1_M:  # four bits of d in each scale word
        for i in range(4):
            blocks["scales"][:, i] &= 0x0FFF
            blocks["scales"][:, i] |= (scale[0].view(np.uint16) >> (4 * i) & 15) << 12
    return blocks.view(np.uint8)


def multiply(
    kind: GGMLType, isa: str, weights: Array, x: Array, reach: Array | None = None
) -> tuple[Array, Array]:
    """(n_tokens, n_out) results in double for activations as kernels quantize them, and their tolerance.

    reach (n_out,): largest magnitude that a row's scales can give, if it is not that of its weights.
    """
    w, seen = weights.astype(np.float64), x.astype(np.float64)
    if kind not in FLOATS:
        q, scale, _ = kernels.quantize(isa, x)
        seen = q.astype(np.float64) * scale.astype(np.float64).repeat(32, axis=1)
    # Every block's products and offsets are rounded a few times and then added up in single precision.
    largest = np.abs(w).max(1) if reach is None else reach
    sizes = np.abs(seen).sum(1)[:, None] * largest[None, :]
    return seen @ w.T, sizes * (4 + np.sqrt(x.shape[1])) * 2.0**-24


@every_format
def test_decode_is_the_codec(kind: GGMLType) -> None:
    raw = random_rows(kind, 8, 1024)
    expected = decode(kind, raw, (8 * 1024,))
    np.testing.assert_array_equal(kernels.decode(int(kind), raw), expected)


@every_format
def test_decode_of_any_bytes_is_the_codec(kind: GGMLType) -> None:
    """Infinite, NaN and subnormal scales too."""
    raw = np.random.default_rng(1).integers(0, 256, 256 * LAYOUTS[kind].block_bytes, dtype=np.uint8)
    expected = decode(kind, raw, (256 * LAYOUTS[kind].block_size,))
    np.testing.assert_array_equal(kernels.decode(int(kind), raw), expected)


@every_isa
@every_format
@pytest.mark.parametrize("n_out", [1, 16, 50])
def test_matmul(kind: GGMLType, isa: str, n_out: int) -> None:
    block = LAYOUTS[kind].block_size
    for n_in in (block * max(1, 32 // block), 768, 1280 if block > 1 else 1277):
        raw = random_rows(kind, n_out, n_in)
        weights = decode(kind, raw, (n_out, n_in))
        matrix = kernels.Linear(isa, int(kind), n_out, n_in, raw)
        for n_tokens in (1, 2, 3, 5, 8, 37):
            x = np.random.default_rng(n_tokens).standard_normal((n_tokens, n_in)).astype(np.float32)
            expected, tolerance = multiply(kind, isa, weights, x)
            assert np.all(np.abs(matrix.matmul(x) - expected) <= tolerance), (n_in, n_tokens)


@every_isa
@every_format
def test_batch_invariance(kind: GGMLType, isa: str) -> None:
    """A token's result has equal bits alone, in any batch, and for any division of the panels."""
    n_out, n_in, n_tokens = 84, 1792, 49
    matrix = kernels.Linear(isa, int(kind), n_out, n_in, random_rows(kind, n_out, n_in))
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((n_tokens, n_in)) * rng.uniform(0, 9, n_in) ** 4).astype(np.float32)
    whole = matrix.matmul(x)
    for step in (1, 2, 5):
        np.testing.assert_array_equal(matrix.matmul(x, step=step), whole)
    for n in range(1, n_tokens):
        np.testing.assert_array_equal(matrix.matmul(x[:n]), whole[:n])
        np.testing.assert_array_equal(matrix.matmul(x, token0=n), whole[n:])


@every_isa
def test_split_matrix(isa: str) -> None:
    """A matrix in two parts gives the bits of one, for any batch, and approximations within their bounds."""
    rng = np.random.default_rng(2)
    for n_out, n_in in ((50, 32), (84, 640), (33, 1536)):
        raw = random_rows(GGMLType.Q8_0, n_out, n_in)
        plain = kernels.Linear(isa, int(GGMLType.Q8_0), n_out, n_in, raw)
        split = kernels.Linear(isa, int(GGMLType.Q8_0), n_out, n_in, raw, split=True)
        for n_tokens in (1, 2, 5, 8, 16, 37, 100):
            x = rng.standard_normal((n_tokens, n_in)).astype(np.float32) * rng.uniform(0, 9, n_in) ** 4
            exact = plain.matmul(x.astype(np.float32))
            np.testing.assert_array_equal(split.matmul(x.astype(np.float32)), exact)
            near, errors = split.approximate(x.astype(np.float32))
            assert np.all(np.abs(near.astype(np.float64) - exact) <= errors)
            assert np.abs(near - exact).max() > 0


@every_isa
def test_split_bounds_hold_where_they_are_tight(isa: str) -> None:
    """Activations aligned with the lower bits reach the bound of their product."""
    n_out, n_in = 16, 640
    raw = random_rows(GGMLType.Q8_0, n_out, n_in)
    split = kernels.Linear(isa, int(GGMLType.Q8_0), n_out, n_in, raw, split=True)
    codes = raw.view(FORMATS[GGMLType.Q8_0].block).reshape(n_out, -1)
    lower = (codes["qs"].astype(np.int64) + 128) % 8 - 3.5
    x = (lower * codes["d"].astype(np.float64)[..., None]).reshape(n_out, n_in).astype(np.float32)
    exact, (near, errors) = split.matmul(x), split.approximate(x)
    off = np.abs(near.astype(np.float64) - exact)
    assert np.all(off <= errors)
    assert np.all(np.diag(off) > 0.99 * np.diag(errors))


def test_only_8_bit_codes_are_split() -> None:
    raw = random_rows(GGMLType.Q4_0, 16, 64)
    with pytest.raises(ValueError, match="cannot be split"):
        kernels.Linear("scalar", int(GGMLType.Q4_0), 16, 64, raw, split=True)


@every_isa
@pytest.mark.parametrize(
    "kind",
    [GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.Q8_0, GGMLType.IQ2_S, GGMLType.F16],
    ids=lambda kind: kind.name,
)
def test_long_rows(kind: GGMLType, isa: str) -> None:
    """Rows longer than the columns that a kernel processes at a time."""
    n_out, n_in, n_tokens = 32, 9216, 40
    raw = random_rows(kind, n_out, n_in)
    x = np.random.default_rng(1).standard_normal((n_tokens, n_in)).astype(np.float32)
    matrix = kernels.Linear(isa, int(kind), n_out, n_in, raw)
    expected, tolerance = multiply(kind, isa, decode(kind, raw, (n_out, n_in)), x)
    y = matrix.matmul(x)
    assert np.all(np.abs(y - expected) <= tolerance)
    np.testing.assert_array_equal(matrix.matmul(x[:1]), y[:1])


@every_isa
@every_format
def test_extreme_codes(kind: GGMLType, isa: str) -> None:
    """The largest codes times the largest activations: sums of 16 bits must not overflow."""
    if kind in FLOATS:
        pytest.skip("no codes")
    n_in = 512
    layout = LAYOUTS[kind]
    filled = []
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        raw = random_rows(kind, 16, n_in)
        blocks = raw.view(FORMATS[kind].block)
        kept: dict[str, Array] = {
            name: blocks[name].copy() for name in ("d", "dmin", "m") if name in (blocks.dtype.names or ())
        }
        if kind in (GGMLType.IQ1_M, GGMLType.NVFP4):
            kept["scales"] = blocks["scales"].copy()
        if kind is GGMLType.MXFP4:
            raw.reshape(-1, layout.block_bytes)[:, 1:] = byte
        else:
            raw[:] = byte
            for name, values in kept.items():
                blocks[name] = values
        filled.append((raw, decode(kind, raw, (16, n_in))))
    reach = np.max([np.abs(weights).max(1) for _, weights in filled], axis=0)
    for raw, weights in filled:
        matrix = kernels.Linear(isa, int(kind), 16, n_in, raw)
        for sign in (1, -1):
            x = np.full((20, n_in), sign, np.float32)
            x[:, ::2] *= np.where(weights[0, ::2] * weights[0, 1::2] < 0, -1, 1)
            expected, tolerance = multiply(kind, isa, weights, x, reach)
            for n in (1, 2, 7, 20):
                assert np.all(np.abs(matrix.matmul(x[:n]) - expected[:n]) <= tolerance[:n]), (sign, n)


@every_format
def test_packed_size(kind: GGMLType) -> None:
    """Decoding a token reads all packed weights, so packing must not make the common formats larger."""
    raw = random_rows(kind, 256, 1024)
    slack = {GGMLType.Q2_K: 1.2, GGMLType.Q3_K: 1.04}.get(kind, 1.03)
    if kind.name.startswith(("IQ1", "IQ2", "TQ")):
        slack = 3.7  # four bits a code, whatever the file takes
    if kind.name.startswith("IQ3"):
        slack = 1.75
    assert kernels.Linear("scalar", int(kind), 256, 1024, raw).nbytes <= raw.size * slack


@every_format
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused(kind: GGMLType, value: float) -> None:
    if kind is GGMLType.NVFP4:
        pytest.skip("every scale is finite")
    n_out, n_in = 40, 512
    raw = random_rows(kind, n_out, n_in)
    blocks = raw.view(FORMATS[kind].block)
    at = blocks.size - 3
    if kind is GGMLType.MXFP4:
        raw.reshape(-1, LAYOUTS[kind].block_bytes)[at, 0] = 255
    elif kind is GGMLType.IQ1_M:
        blocks["scales"][at] |= 0xF000
    elif kind is GGMLType.BF16:
        raw.view(np.uint16)[at] = np.array([value], np.float32).view(np.uint16)[1]
    elif kind in FLOATS:
        blocks[at] = value
    else:
        blocks["d"][at] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        kernels.Linear("scalar", int(kind), n_out, n_in, raw)


@pytest.mark.parametrize(("n_in", "n_bytes"), [(31, 18), (33, 36), (32, 17), (32, 19)])
def test_rows_that_are_not_whole_blocks_are_refused(n_in: int, n_bytes: int) -> None:
    with pytest.raises(ValueError, match=r"rows must be whole blocks|raw must be n_out rows"):
        kernels.Linear("scalar", int(GGMLType.Q4_0), 1, n_in, np.zeros(n_bytes, np.uint8))


# Activations


@every_isa
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_quantize(isa: str, size: float) -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((5, 32 * 21)) * size).astype(np.float32)
    q, scale, sums = kernels.quantize(isa, x)
    blocks = x.reshape(5, -1, 32)
    # A block's scale is its largest magnitude / 127, rounded up to an integer of four bits and some zeros, in
    # units of a 1/7680 of the row's largest.
    needed = np.abs(blocks).max(2) / 127
    unit = needed.max(1, keepdims=True) / 7680
    assert np.all(scale >= needed * (1 - 1e-6))
    assert np.all(scale <= (needed + unit) * (1.125 + 1e-6))
    factor = np.rint(scale / unit)
    assert np.allclose(scale, factor * unit, rtol=1e-6)
    assert factor.max() == 7680
    assert not np.any(np.ldexp(np.frexp(factor)[0], 4) % 1)
    np.testing.assert_allclose(scale.max(1), needed.max(1), rtol=1e-6)
    assert np.abs(q.astype(int)).max(1).min() == 127
    error = np.abs(q.reshape(blocks.shape) * scale[:, :, None].astype(np.float64) - blocks)
    assert np.all(error <= scale[:, :, None] * (0.5 + 1e-4))
    halves = q.astype(np.float64).reshape(5, -1, 2, 16).sum(3)
    found = sums.reshape(5, -1, 2)
    np.testing.assert_allclose(found[:, :, 0], halves.sum(2) * scale, rtol=1e-6)
    np.testing.assert_allclose(found[:, :, 1], halves[:, :, 1] * scale, rtol=1e-6)


@every_isa
def test_quantize_rounds_ties_to_even(isa: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -3.5]
    q, scale, _ = kernels.quantize(isa, x)
    assert scale[0, 0] == 1
    assert q[0, :6].tolist() == [127, 0, 2, 2, 0, -4]


@every_isa
def test_quantize_is_the_same_on_every_set(isa: str) -> None:
    x = np.random.default_rng(3).standard_normal((7, 1024)).astype(np.float32)
    for found, expected in zip(kernels.quantize(isa, x), kernels.quantize("scalar", x), strict=True):
        np.testing.assert_array_equal(found, expected)


@every_isa
@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-40, -1e-38])
def test_quantize_of_nothing_is_nothing(isa: str, tiny: float) -> None:
    q, scale, sums = kernels.quantize(isa, np.full((2, 64), tiny, np.float32))
    assert not np.concatenate([q, scale, sums], axis=1).any()


@every_isa
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("at", [0, 9, 31])
def test_values_that_are_not_finite_stay_visible(isa: str, value: float, at: int) -> None:
    """No crash, codes in range, and a result that is not finite."""
    x = np.ones((2, 64), np.float32)
    x[1, at] = value
    q, scale, _ = kernels.quantize(isa, x)
    assert q.min() >= -127
    assert not np.isfinite(scale[1, 0])
    raw = random_rows(GGMLType.Q4_1, 16, 64)
    y = kernels.Linear(isa, int(GGMLType.Q4_1), 16, 64, raw).matmul(x)
    assert np.isfinite(y[0]).all()
    assert not np.isfinite(y[1]).any()
