"""Attention, row and state kernels of every instruction set this CPU has, against NumPy in double."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm import _native
from edgellm import _native_kernels as kernels
from edgellm.engine.kv_types import KV_TYPES

Array = npt.NDArray[Any]

SIZES = (1, 3, 4, 7, 8, 16, 17, 63, 64, 100, 577)
ISAS: list[str] = _native.usable_isas()


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def half(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def double(x: Array) -> Array:
    return x.astype(np.float64)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# Rows


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["rms", "layer", "l2"])
def test_norm(isa: str, kind: str, n: int) -> None:
    x: Array = normal(1, n) + 0.5
    weight, bias = normal(2, n), normal(3, n)
    d = double(x)
    unit = {
        "rms": d / np.sqrt((d**2).mean() + 1e-5),
        "layer": (d - d.mean()) / np.sqrt(d.var() + 1e-5),
        "l2": d / max(np.sqrt((d**2).sum()), 1e-5),
    }[kind]
    np.testing.assert_allclose(kernels.norm(isa, kind, x, 1, 1e-5), unit, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        kernels.norm(isa, kind, x, 1, 1e-5, weight, bias), unit * weight + bias, rtol=3e-6, atol=3e-6
    )


@pytest.mark.parametrize("per_row", [False, True])
def test_norm_of_groups(isa: str, per_row: bool) -> None:
    x, weight = normal(1, 5, 24), normal(2, 5 if per_row else 1, 24)
    d = double(x)
    expected = d / np.sqrt((d**2).mean(1, keepdims=True) + 1e-6) * weight
    y = kernels.norm(isa, "rms", x.ravel(), 5, 1e-6, weight.ravel())
    np.testing.assert_allclose(y, expected.ravel(), rtol=2e-6)


def test_l2_norm_of_zeros_is_zero(isa: str) -> None:
    assert not kernels.norm(isa, "l2", np.zeros(9, np.float32), 1, 1e-6).any()


@pytest.mark.parametrize("position", [0, 1, 4095, 1_000_000])
def test_rope_angles(isa: str, position: int) -> None:
    inv_freq = 1e4 ** (-np.arange(32) / 32)
    cos, sin = kernels.rope_angles(isa, inv_freq, 1.25, position)
    np.testing.assert_allclose(cos, np.cos(position * inv_freq) * 1.25, atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(position * inv_freq) * 1.25, atol=1e-7)


@pytest.mark.parametrize("kind", ["neox", "interleaved"])
@pytest.mark.parametrize(("head_dim", "n_pairs"), [(2, 1), (16, 8), (64, 32), (80, 16), (11, 5), (128, 61)])
def test_rope(isa: str, kind: str, head_dim: int, n_pairs: int) -> None:
    x, angle = normal(1, 3, head_dim), normal(2, n_pairs)
    cos, sin = np.cos(angle), np.sin(angle)
    expected = double(x)
    pairs = np.arange(n_pairs)
    first, second = (pairs, pairs + n_pairs) if kind == "neox" else (2 * pairs, 2 * pairs + 1)
    a, b = double(x)[:, first], double(x)[:, second]
    expected[:, first], expected[:, second] = a * cos - b * sin, a * sin + b * cos
    np.testing.assert_allclose(
        kernels.rope(isa, kind, x.ravel(), 3, cos, sin), expected.ravel(), rtol=1e-6, atol=1e-6
    )


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


ERFC = np.vectorize(math.erfc, otypes=[np.float64])
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: 0.5 * x * ERFC(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "gelu_quick": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "exp": np.exp,
}


@pytest.mark.parametrize("fn", ACTIVATIONS)
def test_activation(isa: str, fn: str) -> None:
    x = np.concatenate(
        [
            np.linspace(-12, 12, 4001),
            np.linspace(-80, 80, 333),
            np.geomspace(1e-30, 1, 50),
            -np.geomspace(1e-30, 1, 51),
            [0.0],
        ]
    ).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[fn](double(x))
    # Units in the last place; rounding the argument a of an exponential costs |a| of them. e^a < 2^-126 is 0.
    slack = {"gelu_tanh": 256, "gelu_quick": 128, "gelu": 16}.get(fn, 8)
    np.testing.assert_allclose(kernels.activation(isa, fn, x), expected, rtol=slack * 2**-23, atol=2**-119)


@pytest.mark.parametrize("fn", ACTIVATIONS)
def test_activation_at_the_ends(isa: str, fn: str) -> None:
    y = kernels.activation(isa, fn, np.array([200.0, -200.0, 0.0, np.nan], np.float32))
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[fn](np.array([200.0, -200.0, 0.0])).astype(np.float32)
    np.testing.assert_allclose(y[:3], expected, rtol=1e-6, atol=1e-37)
    assert np.isnan(y[3])


def test_xielu(isa: str) -> None:
    x = np.concatenate((np.linspace(-90, 90, 4001), [-1e-4, 0.0, 1e-4])).astype(np.float32)
    above, below = np.maximum(double(x), 0), np.minimum(double(x), 0)
    expected = 0.8 * above**2 + 1.3 * (np.expm1(below) - below) + 0.5 * double(x)
    y = kernels.activation(isa, "xielu", x, 0.8, 1.3, 0.5)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=3e-7)
    assert np.isnan(kernels.activation(isa, "xielu", np.full(3, np.nan, np.float32), 0.8, 1.3, 0.5)).all()


@pytest.mark.parametrize("n", SIZES)
def test_glu(isa: str, n: int) -> None:
    gate, up = normal(1, n, scale=3), normal(2, n)
    for fn in ("silu", "gelu", "gelu_tanh"):
        expected = ACTIVATIONS[fn](double(gate)) * up
        np.testing.assert_allclose(kernels.glu(isa, fn, gate, up), expected, rtol=5e-6, atol=1e-30)


def test_swiglu_oai(isa: str) -> None:
    gate, up = normal(1, 101, scale=6), normal(2, 101, scale=6)
    g, u = np.minimum(double(gate), 7.0), np.clip(double(up), -7.0, 7.0)
    expected = g * sigmoid(1.702 * g) * (u + 1)
    y = kernels.glu(isa, "swiglu_oai", gate, up, 7.0, 1.702)
    np.testing.assert_allclose(y, expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("n", SIZES)
def test_arithmetic(isa: str, n: int) -> None:
    a, b, c = normal(1, n), normal(2, n), normal(3, n)
    np.testing.assert_array_equal(kernels.add(isa, a, b), a + b)
    np.testing.assert_array_equal(kernels.mul(isa, a, b), a * b)
    np.testing.assert_array_equal(kernels.affine(isa, a, 2.5, b, c), a * np.float32(2.5) * b + c)
    np.testing.assert_array_equal(
        kernels.affine(isa, a, 2.5, b[:1], c[:1]), a * np.float32(2.5) * b[0] + c[0]
    )
    np.testing.assert_array_equal(kernels.affine(isa, a, 0.5), a * np.float32(0.5))
    np.testing.assert_allclose(
        kernels.softcap(isa, a * 40, 30.0), np.tanh(double(a * 40) / 30) * 30, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("n", SIZES)
def test_softmax(isa: str, n: int) -> None:
    x = normal(1, n, scale=10)
    x[n // 2] = -np.inf if n > 1 else x[0]
    e = np.exp(double(x) - double(x).max())
    np.testing.assert_allclose(kernels.softmax(isa, x), e / e.sum(), rtol=64 * 2**-23, atol=1e-37)


# Attention


def attention_in_double(
    q: Array, k: Array, v: Array, position: int, n_keys: int, shape: dict[str, Any]
) -> Array:
    n_heads, n_kv_heads, kd, vd = (shape[x] for x in ("n_heads", "n_kv_heads", "key_dim", "value_dim"))
    out = np.zeros((len(q), n_heads * vd))
    for i, h in np.ndindex(len(q), n_heads):
        at = position + i + 1
        window = shape.get("window", 0)
        seen = slice(0, n_keys) if n_keys else slice(max(0, at - window) if window else 0, at)
        kv = h // (n_heads // n_kv_heads)
        logits = double(k)[seen, kv * kd : kv * kd + kd] @ double(q)[i, h * kd : h * kd + kd] * shape["scale"]
        if cap := shape.get("softcap", 0.0):
            logits = np.tanh(logits / cap) * cap
        if slopes := shape.get("slopes"):
            logits = logits - slopes[h] * np.abs(np.arange(seen.start, seen.stop) - (at - 1))
        sink = shape["sinks"][h] if shape.get("sinks") else -np.inf
        p = np.exp(logits - max(logits.max(), sink))
        total = p.sum() + np.exp(sink - max(logits.max(), sink))
        out[i, h * vd : h * vd + vd] = p @ double(v)[seen, kv * vd : kv * vd + vd] / total
    return out


def layer(isa: str, n_ctx: int, shape: dict[str, Any]) -> kernels.AttentionLayer:
    dims = {name: value for name, value in shape.items() if name not in ("sinks", "slopes")}
    vectors = shape.get("sinks"), shape.get("slopes")
    return kernels.AttentionLayer(isa, kernels.AttentionShape(**dims), n_ctx, *vectors)


def shape_of(n_heads: int, n_kv_heads: int, key_dim: int, value_dim: int, **more: Any) -> dict[str, Any]:
    dims = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "key_dim": key_dim, "value_dim": value_dim}
    return {**dims, "scale": key_dim**-0.5, **more}


# n_queries, position of the first, shape
CASES = [
    (1, 0, shape_of(1, 1, 1, 1)),
    (5, 0, shape_of(9, 3, 64, 64)),
    (41, 490, shape_of(9, 3, 64, 64)),
    (3, 1030, shape_of(4, 1, 256, 256)),
    (20, 25, shape_of(12, 2, 128, 128, softcap=20.0)),
    (7, 31, shape_of(5, 1, 17, 13)),
    (9, 505, shape_of(2, 2, 24, 40, window=16)),
    (34, 1000, shape_of(6, 2, 16, 32, window=512, sinks=[0.5, -3.0, 9.0, 0.0, 2.0, 1.0])),
    (2, 70, shape_of(2, 1, 192, 128)),
    (2, 33, shape_of(3, 1, 512, 96, softcap=5.0, window=20)),
    (2, 10, shape_of(61, 1, 80, 80)),
    (3, 1030, shape_of(4, 2, 32, 32, slopes=[0.25, 0.0625, 0.015625, 0.00390625])),
    (20, 25, shape_of(2, 1, 24, 24, softcap=20.0, window=9, slopes=[0.5, 0.1])),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c[0]}@{c[1]}-" + "x".join(map(str, list(c[2].values())[:4]))
)
def test_attention(isa: str, case: tuple[int, int, dict[str, Any]]) -> None:
    n, position, shape = case
    total = position + n
    k = half(normal(1, total, shape["n_kv_heads"] * shape["key_dim"]))
    v = half(normal(2, total, shape["n_kv_heads"] * shape["value_dim"]))
    q = normal(3, n, shape["n_heads"] * shape["key_dim"], scale=2)
    cache = layer(isa, total + 1, shape)
    cache.write(0, k, v)
    if window := shape.get("window", 0):
        cache.drop_before(max(0, position + 1 - window))
    y = cache.attend(q, position)
    np.testing.assert_allclose(y, attention_in_double(q, k, v, position, 0, shape), atol=2e-5)
    # The same bits however the queries are cut and the chunks are shared out.
    for tile in (1, 2, 3, 7, 16):
        np.testing.assert_array_equal(cache.attend(q, position, tile=tile), y)
    np.testing.assert_array_equal(cache.attend_chunks(q, position), y)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("slopes", [None, [0.5, 0.25, 0.1, 0.01]])
def test_attention_to_all_keys(isa: str, kv_type: str, slopes: list[float] | None) -> None:
    shape = shape_of(4, 4, 32, 32, slopes=slopes)
    n = 75
    k, v, q = half(normal(1, n, 128)), half(normal(2, n, 128)), normal(3, n, 128)
    cache = layer(isa, 200, {**shape, "kv_type": kv_type})
    cache.write(0, k, v)
    y = cache.attend(q, 0, n_keys=n)
    tolerance = {"q8_0": 2e-2, "i16": 6e-4}.get(kv_type, 1e-5)
    np.testing.assert_allclose(y, attention_in_double(q, k, v, 0, n, shape), atol=tolerance)
    np.testing.assert_array_equal(cache.attend(q, 0, n_keys=n, tile=5), y)
    np.testing.assert_array_equal(cache.attend_chunks(q, 0, n_keys=n), y)


@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_attention_over_a_float_cache(isa: str, case: tuple[int, int, dict[str, Any]]) -> None:
    n, position, shape = case
    total = position + n
    k = normal(1, total, shape["n_kv_heads"] * shape["key_dim"])
    v = normal(2, total, shape["n_kv_heads"] * shape["value_dim"])
    q = normal(3, n, shape["n_heads"] * shape["key_dim"], scale=2)
    cache = layer(isa, total + 1, {**shape, "kv_type": "f32"})
    cache.write(0, k, v)
    y = cache.attend(q, position)
    np.testing.assert_allclose(y, attention_in_double(q, k, v, position, 0, shape), atol=2e-5)
    np.testing.assert_array_equal(cache.attend(q, position, tile=3), y)
    np.testing.assert_array_equal(cache.attend_chunks(q, position), y)


def quantized(x: Array, dim: int) -> Array:
    """x (n, heads * dim) on the grid of a q8_0 cache: a binary16 scale per 32 values of a head."""
    out = np.empty_like(x)
    for start in range(0, x.shape[1], dim):
        for at in range(start, start + dim, 32):
            group = x[:, at : min(at + 32, start + dim)]
            scale = half(np.abs(group).max(1, keepdims=True) / np.float32(127))
            out[:, at : at + group.shape[1]] = (
                np.clip(np.rint(group / np.where(scale > 0, scale, 1)), -127, 127) * scale
            )
    return out


@pytest.mark.parametrize(("kd", "vd"), [(64, 64), (256, 256), (17, 13), (80, 24), (40, 48)])
def test_attention_over_an_int8_cache(isa: str, kd: int, vd: int) -> None:
    shape = shape_of(6, 2, kd, vd)
    total = 560
    k, v, q = normal(1, total, 2 * kd), normal(2, total, 2 * vd, scale=3), normal(3, 30, 6 * kd)
    k[3], v[4] = 0, 0
    cache = layer(isa, total, {**shape, "kv_type": "q8_0"})
    cache.write(0, k, v)
    position = total - len(q)
    y = cache.attend(q, position)
    # A value whose quotient falls on a rounding tie may go either way: at most one step of a few values.
    expected = attention_in_double(q, quantized(k, kd), quantized(v, vd), position, 0, shape)
    np.testing.assert_allclose(y, expected, atol=3e-3)
    assert np.abs(y - expected).mean() < 1e-5
    np.testing.assert_array_equal(cache.attend(q, position, tile=1), y)
    np.testing.assert_array_equal(cache.attend_chunks(q, position), y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_in_integers(isa: str, case: tuple[int, int, dict[str, Any]]) -> None:
    n, position, shape = case
    total = position + n
    kd, vd = shape["key_dim"], shape["value_dim"]
    k, v = normal(1, total, shape["n_kv_heads"] * kd), normal(2, total, shape["n_kv_heads"] * vd)
    # Every token and head has a scale of its own.
    k *= np.exp(normal(5, total, shape["n_kv_heads"]).repeat(kd, 1) / 4)
    v *= np.exp(2 * normal(6, total, shape["n_kv_heads"])).repeat(vd, 1)
    q = normal(3, n, shape["n_heads"] * kd, scale=2)
    if total > 4:
        k[3], v[4] = 0, 0
    cache = layer(isa, total + 1, {**shape, "kv_type": "i16"})
    cache.write(0, k, v)
    if window := shape.get("window", 0):
        cache.drop_before(max(0, position + 1 - window))
    y = cache.attend(q, position)
    expected = attention_in_double(q, k, v, position, 0, shape)
    # A block's weights sum to 2^15, and each is off by half a unit at most, of the largest value.
    error = np.abs(y - expected)
    assert error.max() < 4e-4 * np.abs(v).max()
    # Taken together they are about as near as those over the same cache in binary16.
    half_cache = layer(isa, total + 1, shape)
    half_cache.write(0, k, v)
    assert error.mean() < 2.5 * np.abs(half_cache.attend(q, position) - expected).mean()
    for tile in (1, 2, 3, 7, 16):
        np.testing.assert_array_equal(cache.attend(q, position, tile=tile), y)
    np.testing.assert_array_equal(cache.attend_chunks(q, position), y)


def test_one_token_outweighs_thousands_of_others(isa: str) -> None:
    # The first token takes nine tenths of the weight and has a small value, as models learn it.
    shape = {**shape_of(1, 1, 64, 64), "scale": 1.0}
    total = 1500
    k, v, q = np.zeros((total, 64), np.float32), normal(2, total, 64), np.zeros((1, 64), np.float32)
    v += 1
    q[0, 0] = 1
    k[0, 0] = np.log(9 * total)
    v[0] *= 0.01
    cache = layer(isa, total, {**shape, "kv_type": "i16"})
    cache.write(0, k, v)
    expected = attention_in_double(q, k, v, total - 1, 0, shape)
    np.testing.assert_allclose(cache.attend(q, total - 1), expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kv_type", ["i16", "f16", "q8_0"])
def test_values_out_of_range_are_stored_finite(isa: str, kv_type: str) -> None:
    cache = layer(isa, 64, {**shape_of(1, 1, 16, 16), "kv_type": kv_type})
    cache.write(0, np.full((3, 16), 1e30, np.float32), np.full((3, 16), -1e30, np.float32))
    y = cache.attend(np.full((1, 16), 1e-6, np.float32), 2)
    assert np.isfinite(y).all()
    assert (y < -60000).all()


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_nan_is_not_hidden(isa: str, kv_type: str) -> None:
    whole = np.ones((3, 16), np.float32)
    broken = whole.copy()
    broken[1, 5] = np.nan
    query = np.ones((1, 16), np.float32)
    for k, v, q in ((broken, whole, query), (whole, whole, np.full_like(query, np.nan))):
        cache = layer(isa, 64, {**shape_of(1, 1, 16, 16), "kv_type": kv_type})
        cache.write(0, k, v)
        assert np.isnan(cache.attend(q, 2)).all()
    cache = layer(isa, 64, {**shape_of(1, 1, 16, 16), "kv_type": kv_type})
    cache.write(0, whole, broken)
    assert np.isnan(cache.attend(query, 2)[0, 5])
    # Tokens before it do not attend to it.
    assert np.isfinite(cache.attend(query, 0)).all()


# State


def convolved(x: Array, weight: Array, bias: Array | None, silu: bool, state: Array) -> tuple[Array, Array]:
    taps = weight.shape[1]
    rows = np.concatenate([double(state), double(x)])
    y = np.stack([(rows[t : t + taps].T * weight).sum(1) for t in range(len(x))])
    y = y if bias is None else y + bias
    return (y * sigmoid(y) if silu else y), rows[len(x) :]


@pytest.mark.parametrize(
    ("n_tokens", "width", "taps"), [(1, 7, 3), (2, 33, 4), (9, 64, 4), (5, 20, 1), (3, 17, 11)]
)
@pytest.mark.parametrize("silu", [False, True])
def test_short_conv(isa: str, n_tokens: int, width: int, taps: int, silu: bool) -> None:
    x, weight, state = normal(1, n_tokens, width), normal(2, width, taps), normal(3, taps - 1, width)
    bias = normal(4, width) if silu else None
    y, after = kernels.short_conv(isa, x, weight, bias, silu, state, 0, width)
    expected, expected_state = convolved(x, weight, bias, silu, state)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=3e-6)
    np.testing.assert_array_equal(after, expected_state)
    # One token after another, and channels apart, are the same bits.
    rows = []
    for t in range(n_tokens):
        row, state = kernels.short_conv(isa, x[t : t + 1], weight, bias, silu, state, 0, width)
        rows.append(row)
    np.testing.assert_array_equal(np.concatenate(rows), y)
    part, _ = kernels.short_conv(isa, x, weight, bias, silu, normal(3, taps - 1, width), 3, width - 2)
    np.testing.assert_array_equal(part[:, 3:-2], y[:, 3:-2])
    assert not part[:, :3].any()


@pytest.mark.parametrize(
    ("n_heads", "n_key_heads", "kd", "vd"), [(4, 2, 16, 16), (6, 3, 24, 40), (2, 2, 128, 128), (3, 1, 5, 9)]
)
@pytest.mark.parametrize("tiled", [False, True])
def test_gated_delta(isa: str, n_heads: int, n_key_heads: int, kd: int, vd: int, tiled: bool) -> None:
    n = 6
    q, k, v = (
        normal(i, n, w, scale=0.3) for i, w in enumerate((n_key_heads * kd, n_key_heads * kd, n_heads * vd))
    )
    decay, beta = -np.abs(normal(4, n, n_heads)), np.abs(normal(5, n, n_heads))
    state = normal(6, n_heads, kd, vd)
    kernel = kernels.GatedDelta(isa, 0.25, tiled)
    y, after = kernel.run(q, k, v, decay, beta, state, 0, n_heads)
    s = double(state)
    for t, h in np.ndindex(n, n_heads):
        kh = h % n_key_heads if tiled else h // (n_heads // n_key_heads)
        key, query = (double(a)[t, kh * kd : kh * kd + kd] for a in (k, q))
        s[h] *= np.exp(double(decay)[t, h])
        s[h] += np.outer(key, beta[t, h] * (double(v)[t, h * vd : h * vd + vd] - s[h].T @ key))
        np.testing.assert_allclose(y[t, h * vd : h * vd + vd], s[h].T @ query * 0.25, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, s, rtol=1e-4, atol=1e-5)
    head, _ = kernel.run(q, k, v, decay, beta, state, n_heads - 1, n_heads)
    np.testing.assert_array_equal(head[:, -vd:], y[:, -vd:])
    assert not head[:, :-vd].any()


@pytest.mark.parametrize(
    ("n_heads", "n_groups", "head_dim", "d_state"),
    [(4, 2, 8, 16), (3, 1, 5, 19), (2, 2, 64, 128), (8, 1, 1, 16)],
)
def test_ssm(isa: str, n_heads: int, n_groups: int, head_dim: int, d_state: int) -> None:
    n = 5
    x, b, c = (
        normal(1, n, n_heads * head_dim),
        normal(2, n, n_groups * d_state),
        normal(3, n, n_groups * d_state),
    )
    dt, a, d, dt_bias = (
        normal(4, n, n_heads),
        -np.abs(normal(5, n_heads)),
        normal(6, n_heads),
        normal(7, n_heads),
    )
    state = normal(8, n_heads, head_dim, d_state)
    kernel = kernels.Ssm(isa, a, d, dt_bias, n_groups)
    y, after = kernel.run(x, b, c, dt, state, 0, n_heads)
    s = double(state)
    for t, h in np.ndindex(n, n_heads):
        g = h // (n_heads // n_groups)
        row = double(x)[t, h * head_dim : (h + 1) * head_dim]
        key, query = (double(m)[t, g * d_state : (g + 1) * d_state] for m in (b, c))
        step = np.logaddexp(0, double(dt)[t, h] + dt_bias[h])
        s[h] = np.exp(step * a[h]) * s[h] + step * np.outer(row, key)
        expected = s[h] @ query + d[h] * row
        np.testing.assert_allclose(y[t, h * head_dim : (h + 1) * head_dim], expected, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(after, s, rtol=1e-4, atol=1e-5)
    head, _ = kernel.run(x, b, c, dt, state, n_heads - 1, n_heads)
    np.testing.assert_array_equal(head[:, -head_dim:], y[:, -head_dim:])
    assert not head[:, :-head_dim].any()
