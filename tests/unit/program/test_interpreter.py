"""The oracle's ops against direct formulas, on shapes small enough to see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import ModelError, UsageError
from edgellm.program import Builder
from edgellm.program.builder import Gating
from edgellm.program.distance import distance_buckets
from edgellm.program.interpreter import Interpreter
from tests.unit.program.small import random_weights, small_program

Array = NDArray[np.float32]
N_VOCAB, WIDTH = 7, 12
IDS = [3, 1, 4, 1, 5]
EMBD = np.random.default_rng(1).normal(size=(N_VOCAB, WIDTH)).astype(np.float32)
X = EMBD[IDS]


def run(make: Callable[[Builder, str], str], **weights: Array) -> Array:
    """Value that `make` builds from the embedding of IDS."""
    b = Builder("ops", n_vocab=N_VOCAB, width=WIDTH, n_layers=1, n_ctx_train=16)
    out = make(b, b.embed("embd", N_VOCAB, WIDTH))
    program = b.build(hidden=out, logits=None)
    return Interpreter(program, {"embd": EMBD, **weights}).hidden(IDS)


def random(*shape: int, seed: int = 2) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_whole_program_is_causal() -> None:
    program = small_program()
    interpreter = Interpreter(program, random_weights(program))
    full = interpreter.logits([1, 2, 3, 4, 0, 1])
    assert full.shape == (6, 5)
    np.testing.assert_allclose(interpreter.logits([1, 2, 3]), full[:3], rtol=1e-5)


def test_bad_ids_and_weights_are_refused() -> None:
    program = small_program()
    weights = random_weights(program)
    for ids in ([], [5], [-1]):
        with pytest.raises(UsageError, match="0 to 4"):
            Interpreter(program, weights).logits(ids)
    with pytest.raises(ModelError, match=r"'norm' has shape \(3,\), expected \(8,\)"):
        Interpreter(program, weights | {"norm": np.ones(3, np.float32)}).logits([1])


def test_encoder_has_no_logits() -> None:
    b = Builder("ops", n_vocab=N_VOCAB, width=WIDTH, n_layers=1, n_ctx_train=16)
    program = b.build(hidden=b.embed("embd", N_VOCAB, WIDTH), logits=None)
    with pytest.raises(UsageError, match="encoder"):
        Interpreter(program, {"embd": EMBD}).logits(IDS)


def test_embed_sources() -> None:
    rows = random(9, WIDTH)
    position = run(lambda b, x: b.add(x, b.embed("rows", 9, WIDTH, source="position")), rows=rows)
    np.testing.assert_array_equal(position, X + rows[: len(IDS)])
    first = run(lambda b, x: b.add(x, b.embed("rows", 9, WIDTH, source="first")), rows=rows)
    np.testing.assert_array_equal(first, X + rows[0])
    # The first 1, the second token, ends the first segment and belongs to it.
    segment = run(lambda b, x: b.add(x, b.embed("rows", 9, WIDTH, source="segment", separator=1)), rows=rows)
    np.testing.assert_array_equal(segment, X + rows[[0, 0, 1, 1, 1]])


def test_position_scale() -> None:
    scaled = run(lambda b, x: b.position_scale(x, 0.5, 2))
    expected = [x * (1 + 0.5 * math.log(1 + i // 2)) for i, x in enumerate(X)]
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)


def test_a_window_of_an_encoder_looks_both_ways() -> None:
    found = run(lambda b, x: b.attention(x, x, x, n_heads=1, scale=1.0, window=2, causal=False))
    for i in range(len(IDS)):
        near = X[max(0, i - 1) : i + 2]
        p = np.exp(near @ X[i] - (near @ X[i]).max())
        np.testing.assert_allclose(found[i], p @ near / p.sum(), rtol=1e-4)


def test_experts_without_gates_and_with_scales() -> None:
    up, down, router = random(3, 4, WIDTH), random(3, WIDTH, 4, seed=3), random(3, WIDTH, seed=4)
    scale = random(3, seed=5)

    def experts(b: Builder, x: str) -> str:
        logits = b.linear(x, "router", 3)
        return b.moe(
            x, logits, n_ff=4, n_used=1, activation="relu2", up="up", down="down", expert_scale="scale"
        )

    found = run(experts, up=up, down=down, router=router, scale=scale)
    for row, x in zip(found, X, strict=True):
        p = np.exp(router @ x - (router @ x).max())
        best = int(p.argmax())
        y = down[best] @ np.maximum(up[best] @ x, 0) ** 2
        np.testing.assert_allclose(row, y * scale[best] * p[best] / p.sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_norms(groups: int) -> None:
    rows = X.reshape(len(IDS), groups, -1).astype(np.float64)
    weight, bias = random(WIDTH // groups), random(WIDTH, seed=3)
    rms = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-3) * weight
    out = run(lambda b, x: b.norm(x, kind="rms", eps=1e-3, groups=groups, weight="w"), w=weight)
    np.testing.assert_allclose(out, rms.reshape(X.shape), rtol=1e-6)
    centred = rows - rows.mean(-1, keepdims=True)
    layer = centred / np.sqrt(rows.var(-1, keepdims=True) + 1e-3) + bias.reshape(groups, -1)
    out = run(lambda b, x: b.norm(x, kind="layer", eps=1e-3, groups=groups, bias="b", shared=False), b=bias)
    np.testing.assert_allclose(out, layer.reshape(X.shape), rtol=1e-5, atol=1e-6)
    l2 = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    out = run(lambda b, x: b.norm(x, kind="l2", eps=1e-6, groups=groups))
    np.testing.assert_allclose(out, l2.reshape(X.shape), rtol=1e-6)


def test_linear_groups_is_one_matrix_per_group() -> None:
    weight = random(3, 2, 4)
    out = run(lambda b, x: b.linear_groups(x, "w", 2, groups=3), w=weight)
    expected = np.concatenate([X[:, 4 * g : 4 * g + 4] @ weight[g].T for g in range(3)], axis=1)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_affine_softcap_mul() -> None:
    w = random(1)
    np.testing.assert_allclose(run(lambda b, x: b.affine(x, factor=3.0, weight="w", size=1), w=w), X * 3 * w)
    np.testing.assert_allclose(run(lambda b, x: b.softcap(x, 2.0)), np.tanh(X / 2) * 2, rtol=1e-6)
    per_group = run(lambda b, x: b.mul(x, b.slice(x, 0, 3)))
    np.testing.assert_allclose(per_group, X * np.repeat(X[:, :3], 4, axis=1))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("gelu_quick", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("relu", lambda x: max(x, 0.0)),
        ("relu2", lambda x: max(x, 0.0) ** 2),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("tanh", math.tanh),
        ("softplus", lambda x: math.log1p(math.exp(x))),
        ("exp", math.exp),
    ],
)
def test_activations(name: str, formula: Callable[[float], float]) -> None:
    expected = np.vectorize(formula)(X)
    np.testing.assert_allclose(run(lambda b, x: b.activation(x, name)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        run(lambda b, x: b.glu(x, x, activation=name)), expected * X, rtol=1e-5, atol=1e-6
    )


def test_xielu() -> None:
    scalars = {"alpha_p": 0.8, "alpha_n": 1.3, "beta": 0.5}
    expected = np.where(X > 0, 0.8 * X**2, 1.3 * (np.expm1(X) - X)) + 0.5 * X
    found = run(lambda b, x: b.activation(x, "xielu", scalars=scalars))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_clamped_swiglu() -> None:
    gate, up = np.minimum(X, 0.5), np.clip(X, -0.5, 0.5)
    expected = gate / (1 + np.exp(-1.7 * gate)) * (up + 1)
    out = run(lambda b, x: b.glu(x, x, activation="swiglu_oai", limit=0.5, alpha=1.7))
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_slice_concat_repeat() -> None:
    heads = X.reshape(len(IDS), 3, 4)
    out = run(lambda b, x: b.slice(x, 1, 2, groups=3))
    np.testing.assert_array_equal(out, heads[:, :, 1:3].reshape(len(IDS), -1))
    out = run(lambda b, x: b.concat(x, b.slice(x, 0, 2), groups=3, repeat_b=True))
    shared = np.repeat(X[:, None, :2], 3, axis=1)
    np.testing.assert_array_equal(out, np.concatenate((heads, shared), 2).reshape(len(IDS), -1))
    out = run(lambda b, x: b.repeat(x, groups=3, times=2))
    np.testing.assert_array_equal(out, np.repeat(heads, 2, axis=1).reshape(len(IDS), -1))
    out = run(lambda b, x: b.repeat(x, groups=3, times=2, interleave=False))
    np.testing.assert_array_equal(out, np.concatenate((X, X), axis=1))


@pytest.mark.parametrize("kind", ["neox", "interleaved"])
def test_rope_turns_pairs_and_leaves_the_rest(kind: Literal["neox", "interleaved"]) -> None:
    factors = np.array([1.0, 2.0], np.float32)

    def make(b: Builder, x: str) -> str:
        table = b.table("rope", (1.0, 0.5), 1.5)
        return b.rope(x, groups=2, table=table, kind=kind, factors="f")

    out = run(make, f=factors).reshape(len(IDS), 2, 6)
    heads = X.reshape(len(IDS), 2, 6)
    np.testing.assert_array_equal(out[:, :, 4:], heads[:, :, 4:])
    pairs = [(0, 2), (1, 3)] if kind == "neox" else [(0, 1), (2, 3)]
    position = np.arange(len(IDS))[:, None]
    for (i, j), frequency in zip(pairs, (1.0, 0.25), strict=True):
        turned = (heads[..., i] + 1j * heads[..., j]) * 1.5 * np.exp(1j * position * frequency)
        np.testing.assert_allclose(out[..., i], turned.real, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(out[..., j], turned.imag, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "softcap", "sinks", "causal"),
    [
        (0, 0.0, False, True),
        (2, 0.0, False, True),
        (0, 3.0, True, True),
        (0, 0.0, False, False),
    ],
)
def test_attention(window: int, softcap: float, sinks: bool, causal: bool) -> None:
    sink = random(4)

    def make(b: Builder, x: str) -> str:
        q, k, v = x, b.slice(x, 0, 6), b.slice(x, 4, 8)
        return b.attention(
            q,
            k,
            v,
            n_heads=4,
            scale=0.7,
            cache=b.cache(2, 3, 4, window) if causal else -1,
            window=window,
            softcap=softcap,
            causal=causal,
            sinks="s" if sinks else None,
        )

    out = run(make, s=sink).reshape(len(IDS), 4, 4)
    for t in range(len(IDS)):
        for h in range(4):
            first = max(0, t - window + 1) if window else 0
            seen = range(first, t + 1) if causal else range(len(IDS))
            kv = h // 2
            scores = np.array([X[t, 3 * h : 3 * h + 3] @ X[s, 3 * kv : 3 * kv + 3] * 0.7 for s in seen])
            if softcap:
                scores = np.tanh(scores / softcap) * softcap
            p = np.exp(scores)
            total = p.sum() + (np.exp(sink[h]) if sinks else 0.0)
            values = np.array([X[s, 4 + 4 * kv : 8 + 4 * kv] for s in seen])
            np.testing.assert_allclose(out[t, h], p @ values / total, rtol=1e-4, atol=1e-5)


def test_attention_with_a_bias_by_distance() -> None:
    bias = random(8, 4)

    def make(b: Builder, x: str) -> str:
        q, k, v = x, b.slice(x, 0, 6), b.slice(x, 4, 8)
        return b.attention(
            q,
            k,
            v,
            n_heads=4,
            scale=0.7,
            causal=False,
            distance_bias="bias",
            n_buckets=8,
            max_distance=20,
        )

    out = run(make, bias=bias).reshape(len(IDS), 4, 4)
    assert len(IDS) <= 5
    for t in range(len(IDS)):
        for h in range(4):
            kv = h // 2
            scores = np.array(
                [X[t, 3 * h : 3 * h + 3] @ X[s, 3 * kv : 3 * kv + 3] * 0.7 for s in range(len(IDS))]
            )
            # Two buckets of a distance each, then two that widen, for earlier keys; as many for later ones.
            scores += [bias[min(abs(t - s), 2) + 4 * (s > t), h] for s in range(len(IDS))]
            p = np.exp(scores)
            values = np.array([X[s, 4 + 4 * kv : 8 + 4 * kv] for s in range(len(IDS))])
            np.testing.assert_allclose(out[t, h], p @ values / p.sum(), rtol=1e-4, atol=1e-5)


def test_buckets_of_distances_are_those_of_transformers() -> None:
    """MPNetEncoder.relative_position_bucket of transformers 5.24, 32 buckets."""
    later = [-600, -128, -127, -91, -90, -64, -63, -33, -32, -23, -22, -16, -12, -8, -7, -1, 0]
    later += [1, 7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91, 127, 128, 300]
    buckets = [15, 15, 15, 15, 14, 14, 13, 12, 12, 11, 10, 10, 9, 8, 7, 1, 0]
    buckets += [17, 23, 24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 31, 31, 31, 31]
    assert distance_buckets(-np.array(later), 32, 128).tolist() == buckets


def test_attention_shared_reads_what_attention_wrote() -> None:
    def make(b: Builder, x: str) -> str:
        cache = b.cache(2, 3, 3)
        kv = b.slice(x, 0, 6)
        first = b.attention(x, kv, kv, cache=cache, n_heads=4, scale=1.0)
        return b.add(first, b.attention_shared(x, cache=cache, n_heads=4, scale=1.0))

    def once(b: Builder, x: str) -> str:
        kv = b.slice(x, 0, 6)
        return b.attention(x, kv, kv, cache=b.cache(2, 3, 3), n_heads=4, scale=1.0)

    np.testing.assert_allclose(run(make), 2 * run(once), rtol=1e-6)


@pytest.mark.parametrize("gating", ["softmax", "sigmoid", "softmax_chosen"])
@pytest.mark.parametrize("fused", [False, True])
def test_experts(gating: Gating, fused: bool) -> None:
    n_experts, n_ff, n_used = 4, 5, 2
    router, bias = random(n_experts, WIDTH, seed=4), random(n_experts, seed=5)
    gate, up = random(n_experts, n_ff, WIDTH, seed=6), random(n_experts, n_ff, WIDTH, seed=7)
    down, down_bias = random(n_experts, WIDTH, n_ff, seed=8), random(n_experts, WIDTH, seed=9)
    weights = {"r": router, "down": down, "db": down_bias, "sb": bias}
    weights |= {"gu": np.concatenate((gate, up), axis=1)} if fused else {"gate": gate, "up": up}

    def make(b: Builder, x: str) -> str:
        return b.moe(
            x,
            b.linear(x, "r", n_experts),
            n_ff=n_ff,
            n_used=n_used,
            gate=None if fused else "gate",
            up=None if fused else "up",
            gate_up="gu" if fused else None,
            down="down",
            down_bias="db",
            selection_bias="sb",
            gating=gating,
            normalize=gating != "softmax_chosen",
            factor=1.5,
        )

    out = run(make, **weights)
    for t, x in enumerate(X):
        logits = (router @ x).astype(np.float64)
        p = {"softmax": np.exp(logits) / np.exp(logits).sum(), "sigmoid": 1 / (1 + np.exp(-logits))}.get(
            gating, logits
        )
        chosen = np.argsort(-(p + bias))[:n_used]
        share = np.exp(logits[chosen]) if gating == "softmax_chosen" else p[chosen]
        share = share / share.sum() * 1.5
        expected = np.zeros(WIDTH)
        for weight, e in zip(share, chosen, strict=True):
            g, u = gate[e] @ x, up[e] @ x
            expected += weight * (down[e] @ (g / (1 + np.exp(-g)) * u) + down_bias[e])
        np.testing.assert_allclose(out[t], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score", ["top2", "max"])
def test_expert_groups_limit_the_choice(score: Literal["top2", "max"]) -> None:
    # Logits of one token: group 0 holds the best expert, group 1 the best pair.
    logits = np.array([3.0, -9.0, 2.0, 2.0], np.float32)
    embd = np.zeros((N_VOCAB, WIDTH), np.float32)
    embd[:, 0] = 1
    router = np.zeros((4, WIDTH), np.float32)
    router[:, 0] = logits
    down = np.zeros((4, WIDTH, 1), np.float32)
    down[:, 1, 0] = [1, 10, 100, 1000]
    gate = np.zeros((4, 1, WIDTH), np.float32)
    gate[:, 0, 0] = 1

    def make(b: Builder, x: str) -> str:
        return b.moe(
            x,
            b.linear(x, "r", 4),
            n_ff=1,
            n_used=1,
            gate="g",
            up="g",
            down="d",
            gating="sigmoid",
            normalize=True,
            n_groups=2,
            n_groups_used=1,
            group_score=score,
            activation="relu",
        )

    out = run(make, embd=embd, r=router, d=down, g=gate)
    np.testing.assert_allclose(out[:, 1], 100.0 if score == "top2" else 1.0)


def test_short_conv_looks_back() -> None:
    weight, bias = random(WIDTH, 3), random(WIDTH, seed=3)
    out = run(lambda b, x: b.short_conv(x, "w", 3, bias="b"), w=weight, b=bias)
    padded = np.concatenate((np.zeros((2, WIDTH)), X))
    for t in range(len(IDS)):
        taps = (padded[t : t + 3].T.astype(np.float32) * weight).sum(1)
        np.testing.assert_allclose(out[t], taps + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiled", [False, True])
def test_gated_delta(tiled: bool) -> None:
    def make(b: Builder, x: str) -> str:
        q, k, v = b.slice(x, 0, 4), b.slice(x, 4, 4), x
        decay, beta = b.slice(x, 0, 4), b.activation(b.slice(x, 4, 4), "sigmoid")
        return b.gated_delta(q, k, v, decay, beta, n_heads=4, n_key_heads=2, scale=0.5, tiled=tiled)

    out = run(make).reshape(len(IDS), 4, 3)
    for h in range(4):
        key = 2 * (h % 2 if tiled else h // 2)
        state = np.zeros((2, 3))
        for t, x in enumerate(X.astype(np.float64)):
            k, v, beta = x[4 + key : 6 + key], x[3 * h : 3 * h + 3], 1 / (1 + math.exp(-x[4 + h]))
            state = state * math.exp(x[h])
            state = state + np.outer(k, beta * (v - state.T @ k))
            np.testing.assert_allclose(out[t, h], state.T @ (x[key : key + 2] * 0.5), rtol=1e-4, atol=1e-5)


def test_ssm() -> None:
    a, d, dt_bias = -np.abs(random(4)), random(4, seed=3), random(4, seed=4)

    def make(b: Builder, x: str) -> str:
        parts = {"b": b.slice(x, 0, 4), "c": b.slice(x, 4, 4), "dt": b.slice(x, 8, 4)}
        return b.ssm(x, **parts, a="a", d="d", dt_bias="t", n_heads=4, n_groups=2, d_state=2)

    out = run(make, a=a, d=d, t=dt_bias).reshape(len(IDS), 4, 3)
    for h in range(4):
        group = 2 * (h // 2)
        state = np.zeros((3, 2))
        for t, x in enumerate(X.astype(np.float64)):
            dt = math.log1p(math.exp(x[8 + h] + dt_bias[h]))
            value = x[3 * h : 3 * h + 3]
            state = math.exp(dt * a[h]) * state + dt * np.outer(value, x[group : group + 2])
            expected = state @ x[4 + group : 6 + group] + d[h] * value
            np.testing.assert_allclose(out[t, h], expected, rtol=1e-4, atol=1e-5)
