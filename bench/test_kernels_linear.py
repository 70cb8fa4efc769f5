"""Linear kernels on real shapes, every format and instruction set, as shares of this machine's limits.

python -m pytest bench/test_kernels_linear.py --benchmark-only -k "avx2 and Q4_1"

Decode: GB/s of packed weights and its share of a read-only loop's rate on as large a buffer, in bytes per
nanosecond and thread. Prefill: GMAC/s and its share of a register kernel's rate. EDGELLM_BENCH_THREADS
(default 1) threads.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm import _native
from edgellm import _native_kernels as kernels
from edgellm.convert.recipes import fitting
from edgellm.gguf.types import LAYOUTS, GGMLType
from tests.contract.test_linear import FLOATS, WEIGHTS, random_rows

ISAS: list[str] = [isa for isa in _native.usable_isas() if isa != "scalar"]
THREADS = int(os.environ.get("EDGELLM_BENCH_THREADS", "1"))
COMMON = [kind.name for kind in WEIGHTS if not kind.name.startswith(("IQ1", "IQ2", "IQ3", "TQ1"))]
# The format that Q4_K becomes where rows are not whole blocks of 256.
FIVE_BITS = fitting(GGMLType.Q4_K, 640).name
# n_out, n_in, format; K-quants on the shapes of models whose rows they fit.
LAYERS = {
    "smollm2-qo": (576, 576, "Q4_1"),
    "smollm2-kv": (192, 576, "Q4_1"),
    "smollm2-up": (1536, 576, "Q4_1"),
    "smollm2-down": (576, 1536, "Q4_1"),
    "smollm2-head": (49152, 576, "Q4_1"),
    "gemma3-up": (2048, 640, FIVE_BITS),
    "gemma3-down": (640, 2048, "Q4_K"),
    "gemma3-head": (65536, 640, "Q8_0"),
    "qwen2.5-up": (8960, 1536, "Q4_K"),
    "qwen2.5-down": (1536, 8960, "Q6_K"),
}


@cache
def limits(isa: str, n_bytes: int) -> dict[str, float]:
    return dict(_native.measure_limits(THREADS, isa, 0.2, n_bytes))


def prepare(kind: GGMLType, isa: str, n_out: int, n_in: int, n_tokens: int) -> tuple[Any, int]:
    """A product to repeat and the bytes of its packed weights."""
    linear = kernels.Linear(isa, int(kind), n_out, n_in, random_rows(kind, n_out, n_in))
    x = np.random.default_rng(1).standard_normal((n_tokens, n_in)).astype(np.float32)
    return kernels.LinearRun(linear, x, THREADS), linear.nbytes


def measure_decode(benchmark: BenchmarkFixture, kind: GGMLType, isa: str, n_out: int, n_in: int) -> None:
    run, n_bytes = prepare(kind, isa, n_out, n_in, 1)
    benchmark(run.run)
    if benchmark.stats is None:
        return
    rate = n_bytes / benchmark.stats.stats.median
    limit = limits(isa, n_bytes)["read_bytes_per_s"]
    benchmark.extra_info |= {"GB/s": rate / 1e9, "share": rate / limit, "B/ns/thread": rate / 1e9 / THREADS}


def measure_prefill(
    benchmark: BenchmarkFixture, kind: GGMLType, isa: str, n_out: int, n_in: int, n_tokens: int
) -> None:
    run, n_bytes = prepare(kind, isa, n_out, n_in, n_tokens)
    benchmark(run.run)
    if benchmark.stats is None:
        return
    rate = n_out * n_in * n_tokens / benchmark.stats.stats.median
    limit = limits(isa, n_bytes)["float_macs_per_s" if kind in FLOATS else "int8_macs_per_s"]
    benchmark.extra_info |= {"GMAC/s": rate / 1e9, "share": rate / limit}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", COMMON)
def test_decode(benchmark: BenchmarkFixture, name: str, isa: str) -> None:
    """32 MB or so of weights, in rows of 1,536."""
    kind = GGMLType[name]
    layout = LAYOUTS[kind]
    n_out = (32 << 20) * layout.block_size // layout.block_bytes // 1536 // 16 * 16
    measure_decode(benchmark, kind, isa, n_out, 1536)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", COMMON)
def test_prefill(benchmark: BenchmarkFixture, name: str, isa: str) -> None:
    measure_prefill(benchmark, GGMLType[name], isa, 1536, 1536, 96)


@pytest.mark.parametrize("n_tokens", [2, 4, 8, 16])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["Q4_1", FIVE_BITS, "Q8_0", "Q6_K"])
def test_small_batches(benchmark: BenchmarkFixture, name: str, isa: str, n_tokens: int) -> None:
    measure_prefill(benchmark, GGMLType[name], isa, 4096, 1536, n_tokens)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("n_tokens", [1, 512])
def test_layers(benchmark: BenchmarkFixture, layer: str, isa: str, n_tokens: int) -> None:
    n_out, n_in, name = LAYERS[layer]
    if n_tokens == 1:
        measure_decode(benchmark, GGMLType[name], isa, n_out, n_in)
    else:
        measure_prefill(benchmark, GGMLType[name], isa, min(n_out, 4096), n_in, n_tokens)


@pytest.mark.parametrize("isa", ISAS)
def test_quantize(benchmark: BenchmarkFixture, isa: str) -> None:
    x = np.random.default_rng(1).standard_normal((96, 1536)).astype(np.float32)
    benchmark(kernels.quantize, isa, x)
    if benchmark.stats is not None:
        benchmark.extra_info["values/ns"] = x.size / benchmark.stats.stats.median / 1e9
