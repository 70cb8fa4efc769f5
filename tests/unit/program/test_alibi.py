"""Slopes of ALiBi against the rule of the paper's code, and attention with them against a formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgellm.errors import ModelError
from edgellm.program import Builder
from edgellm.program.distance import slopes
from edgellm.program.interpreter import Interpreter


def of_the_paper(n: int) -> list[float]:
    """A geometric sequence; between powers of two the lower one's, and half of the higher one's."""
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start ** (i + 1) for i in range(n)]
    lower = 2 ** math.floor(math.log2(n))
    return of_the_paper(lower) + of_the_paper(2 * lower)[0::2][: n - lower]


@pytest.mark.parametrize("n", [1, 2, 6, 8, 12, 40, 64, 71])
def test_slopes(n: int) -> None:
    np.testing.assert_allclose(slopes(n, 8.0), of_the_paper(n), rtol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_attention(causal: bool) -> None:
    b = Builder("alibi", n_vocab=11, width=12, n_layers=1, n_ctx_train=64)
    x = b.embed("embd", 11, 12)
    cache = b.cache(3, 4, 4) if causal else -1
    out = b.attention(x, x, x, cache=cache, n_heads=3, scale=0.7, causal=causal, max_bias=4.0, bias_scale=0.5)
    weights = {"embd": np.random.default_rng(1).standard_normal((11, 12)).astype(np.float32)}
    ids = [3, 1, 4, 1, 5, 9, 2]
    found = Interpreter(b.build(hidden=out, logits=None), weights).hidden(ids)
    rows = weights["embd"][ids].astype(np.float64).reshape(len(ids), 3, 4)
    for h, slope in enumerate((2**-2, 2**-4, 2**-1)):
        for i in range(len(ids)):
            seen = range(i + 1 if causal else len(ids))
            logits = np.array([0.7 * rows[i, h] @ rows[j, h] - 0.5 * slope * abs(i - j) for j in seen])
            p = np.exp(logits - logits.max())
            expected = sum(share * rows[j, h] for share, j in zip(p / p.sum(), seen, strict=True))
            np.testing.assert_allclose(found[i, 4 * h : 4 * h + 4], expected, rtol=1e-4, atol=1e-5)


def test_biases_in_a_window_around_a_token_are_refused() -> None:
    b = Builder("alibi", n_vocab=11, width=12, n_layers=1, n_ctx_train=64)
    x = b.embed("embd", 11, 12)
    with pytest.raises(ModelError, match="max_bias and a window"):
        b.attention(x, x, x, n_heads=3, scale=1.0, causal=False, window=3, max_bias=8.0)
    with pytest.raises(ModelError, match=r"max_bias=-1\.0"):
        b.attention(x, x, x, n_heads=3, scale=1.0, causal=False, max_bias=-1.0)


def test_biases_of_two_kinds_are_refused() -> None:
    b = Builder("alibi", n_vocab=11, width=12, n_layers=1, n_ctx_train=64)
    x = b.embed("embd", 11, 12)

    def attention(max_bias: float) -> str:
        return b.attention(
            x,
            x,
            x,
            n_heads=3,
            scale=1.0,
            causal=False,
            distance_bias="bias",
            n_buckets=8,
            max_distance=20,
            max_bias=max_bias,
        )

    attention(0.0)
    with pytest.raises(ModelError, match="distance_bias and max_bias"):
        attention(8.0)
