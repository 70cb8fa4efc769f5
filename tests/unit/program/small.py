"""A small program that uses a cache, a state, a table and optional weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm.program import Builder, Program


def small_program() -> Program:
    """Two heads of four values over a width of eight, a convolution, a tied head."""
    b = Builder("small", n_vocab=5, width=8, n_layers=1, n_ctx_train=16)
    table = b.table("rope", (1.0, 0.1), 1.25)
    x = b.embed("embd", 5, 8)
    y = b.norm(x, kind="rms", eps=1e-5, weight="norm")
    q = b.rope(b.linear(y, "q", 8, bias="q.bias"), groups=2, table=table)
    k = b.rope(b.linear(y, "k", 4), groups=1, table=table, kind="interleaved")
    v = b.linear(y, "v", 4)
    out = b.attention(q, k, v, cache=b.cache(1, 4, 4, 3), n_heads=2, scale=0.5, window=3)
    x = b.add(x, b.short_conv(out, "conv", 3, activation="silu"))
    return b.build(hidden=x, logits=b.linear(x, "embd", 5))


def random_weights(program: Program, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Normally distributed weights of the declared shapes."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in program.weights.items()}
