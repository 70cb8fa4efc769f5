"""On cores of several kinds threads take parts of the work as they come free; results keep their bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm import _native
from edgellm.gguf.types import GGMLType
from edgellm.program import to_text
from edgellm.program.builder import Builder

WIDTH, N_HEADS, N_FF, N_VOCAB = 64, 4, 1024, 512
SPEEDS = [(0, 1.0), (1, 0.3), (2, 0.3)]


def _engine(threads: int, speeds: list[tuple[int, float]]) -> _native.Engine:
    """A decoder of two layers, the second with a mixture of experts, in 8 bits."""
    b = Builder("test", n_vocab=N_VOCAB, width=WIDTH, n_layers=2, n_ctx_train=256, tensors=None)
    table = b.table("rope", [1.0, 0.3, 0.1, 0.03])
    x = b.embed("embd", N_VOCAB, WIDTH)
    for i in range(2):
        y = b.norm(x, kind="rms", eps=1e-6)
        q, k, v = (b.linear(y, f"{i}.{name}", WIDTH) for name in "qkv")
        q, k = (b.rope(value, groups=N_HEADS, table=table) for value in (q, k))
        cache = b.cache(N_HEADS, 16, 16)
        y = b.attention(q, k, v, cache=cache, n_heads=N_HEADS, scale=0.25)
        x = b.add(x, b.linear(y, f"{i}.o", WIDTH))
        y = b.norm(x, kind="rms", eps=1e-6)
        if i == 0:
            y = b.glu(b.linear(y, "gate", N_FF), b.linear(y, "up", N_FF))
            x = b.add(x, b.linear(y, "down", WIDTH))
        else:
            router = b.linear(y, "router", 4)
            x = b.add(x, b.moe(y, router, n_ff=64, n_used=2, gate="gates", up="ups", down="downs"))
    hidden = b.norm(x, kind="rms", eps=1e-6)
    program = b.build(hidden=hidden, logits=b.linear(hidden, "head", N_VOCAB))
    rng = np.random.default_rng(11)
    kinds = {
        name: GGMLType.Q8_0 if shape[-1] % 32 == 0 else GGMLType.F32
        for name, shape in program.weights.items()
    }
    data = {}
    for name, shape in program.weights.items():
        codes = rng.integers(-90, 90, (int(np.prod(shape)) // 32, 32)).astype(np.int8)
        scales = np.full((len(codes), 1), 0.02 * shape[-1] ** -0.5, np.float16)
        data[name] = np.hstack((scales.view(np.uint8), codes.view(np.uint8))).reshape(-1)
    assert set(kinds.values()) == {GGMLType.Q8_0}
    engine = _native.Engine(
        to_text(program),
        [(name, int(kind)) for name, kind in kinds.items()],
        threads=threads,
        context=256,
        cache_tokens=512,
        batch=128,
        kv_type="f16",
        isa=_native.best_isa(),
        speeds=speeds,
    )
    engine.load([(name, int(kinds[name]), data[name]) for name in data])
    return engine


def _logits(engine: _native.Engine, chunk: int) -> NDArray[np.float32]:
    sequence = engine.open_sequence()
    ids = np.random.default_rng(12).integers(0, N_VOCAB, 90).astype(np.int32)
    rows = []
    for start in range(0, len(ids), chunk):
        tokens = ids[start : start + chunk]
        owners, every = np.full(len(tokens), sequence, np.int32), np.ones(len(tokens), np.uint8)
        rows.append(np.array(engine.step(tokens, owners, every)))
    engine.close_sequence(sequence)
    return np.concatenate(rows)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_kinds_of_cores(threads: int) -> None:
    even = _logits(_engine(1, []), 90)
    assert np.isfinite(even).all()
    assert np.ptp(even) > 0.1
    uneven = _engine(threads, SPEEDS)
    for chunk in (90, 40, 7, 1):
        assert np.array_equal(_logits(uneven, chunk), even), f"chunks of {chunk}"
