"""Attention of one layer, one thread, on every instruction set: GMAC/s in prefill, GB/s of cache in decode.

python -m pytest bench/test_kernels_attention.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm import _native
from edgellm import _native_kernels as kernels
from edgellm.engine.kv_types import KV_TYPES, cached_bytes
from edgellm.program.ops import CacheSpec

ISAS: list[str] = _native.usable_isas()
# n_heads, n_kv_heads, head_dim
SHAPES = {"smollm2-135m": (9, 3, 64), "gemma-3-270m": (4, 1, 256), "qwen2.5-1.5b": (12, 2, 128)}


def filled_layer(isa: str, model: str, n_ctx: int, kv_type: str) -> Any:
    n_heads, n_kv_heads, dim = SHAPES[model]
    shape = kernels.AttentionShape(n_heads, n_kv_heads, dim, dim, dim**-0.5, kv_type=kv_type)
    layer = kernels.AttentionLayer(isa, shape, n_ctx)
    rng = np.random.default_rng(1)
    for start in range(0, n_ctx, 512):
        k, v = rng.standard_normal((2, min(512, n_ctx - start), n_kv_heads * dim), dtype=np.float32)
        layer.write(start, k, v)
    return layer


def queries(model: str, n: int) -> Any:
    n_heads, _, dim = SHAPES[model]
    return np.random.default_rng(2).standard_normal((n, n_heads * dim), dtype=np.float32)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("model", SHAPES)
def test_decode_at_4096(benchmark: BenchmarkFixture, model: str, isa: str, kv_type: str) -> None:
    depth = 4096
    # Several layers in turn, so that their caches (8 to 48 MB) come from where they would in a step.
    n_layers = 8
    layers = [filled_layer(isa, model, depth, kv_type) for _ in range(n_layers)]
    q = queries(model, 1)

    def step() -> None:
        for layer in layers:
            layer.attend(q, depth - 1)

    benchmark(step)
    _, n_kv_heads, dim = SHAPES[model]
    n_bytes = n_layers * depth * cached_bytes(CacheSpec(n_kv_heads, dim, dim), kv_type)
    if benchmark.stats is not None:
        benchmark.extra_info["GB/s"] = n_bytes / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("position", [0, 3584])
def test_prefill_of_512(
    benchmark: BenchmarkFixture, model: str, isa: str, kv_type: str, position: int
) -> None:
    layer = filled_layer(isa, model, position + 512, kv_type)
    n_heads, n_kv_heads, dim = SHAPES[model]
    q = queries(model, 512)
    tile = max(1, 48 // (n_heads // n_kv_heads))
    benchmark(layer.attend, q, position, tile=tile)
    macs = sum(range(position + 1, position + 513)) * n_heads * dim * 2
    if benchmark.stats is not None:
        benchmark.extra_info["GMAC/s"] = macs / benchmark.stats.stats.median / 1e9
