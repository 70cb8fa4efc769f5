"""Results do not depend on the floating-point mode of the thread that asks for them, and do not change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import _native_kernels
from edgellm.engine.sampling import Sampler
from edgellm.engine.sampling_params import SamplingParams
from edgellm.gguf.types import GGMLType
from edgellm.quant import native
from tests.support.tiny_model import tiny_builder

# Rows whose half-precision scales are subnormal in one format or another.
SIZES = np.geomspace(1e-6, 1e-2, 16)[:, None]
SMALL = (np.random.default_rng(2).standard_normal((16, 512)) * SIZES).astype(np.float32)


@contextmanager
def flushing() -> Iterator[None]:
    """As in a thread where code built with -ffast-math has set flush-to-zero; checks that it stays so."""
    before = _native_kernels.float_control()
    _native_kernels.set_float_control(_native_kernels.FLUSHING_FLOATS)
    try:
        yield
        assert _native_kernels.float_control() == _native_kernels.FLUSHING_FLOATS
    finally:
        _native_kernels.set_float_control(before)


@pytest.fixture
def small_scales(tmp_path: Path) -> Path:
    """A model whose Q8_0 weights have subnormal scales."""
    builder = tiny_builder()
    for tensor in builder.tensors:
        if len(tensor.dims) > 1:
            values = np.frombuffer(tensor.raw, "<f4").reshape(tensor.dims[::-1]) * np.float32(1e-3)
            tensor.kind = GGMLType.Q8_0
            tensor.raw = native.encode_rows(GGMLType.Q8_0, values, threads=1).tobytes()
    return builder.write(tmp_path / "small.gguf")


@pytest.mark.parametrize("kind", [kind for kind in native.ENCODERS if kind is not GGMLType.F32])
def test_the_quantizer(kind: GGMLType) -> None:
    raw = native.encode_rows(kind, SMALL, threads=2)
    values = native.decode_values(kind, raw, SMALL.shape, threads=2)
    error = native.square_error(kind, raw, SMALL, threads=2)
    assert np.any(values)
    with flushing():
        flushed = native.encode_rows(kind, SMALL, threads=2)
        decoded = native.decode_values(kind, raw, SMALL.shape, threads=2)
        flushed_error = native.square_error(kind, raw, SMALL, threads=2)
    assert flushed.tobytes() == raw.tobytes()
    assert decoded.tobytes() == values.tobytes()
    assert flushed_error == error


@pytest.mark.parametrize("threads", [1, 3])
def test_the_engine(small_scales: Path, threads: int) -> None:
    ids = [1, 2, 3, 4, 5]
    with edgellm.load(small_scales, threads=threads) as model:
        expected = np.ascontiguousarray(model.logits(ids)).tobytes()
    with flushing(), edgellm.load(small_scales, threads=threads) as model:
        assert np.ascontiguousarray(model.logits(ids)).tobytes() == expected


def test_the_sampler() -> None:
    logits = (np.random.default_rng(3).standard_normal(500) * 30).astype(np.float32)

    def sampled() -> list[tuple[int, float]]:
        sampler = Sampler(replace(SamplingParams(), temperature=5.0, seed=7, logprobs=2))
        return [(one.id, one.logprob) for one in (sampler.sample(logits) for _ in range(20))]

    expected = sampled()
    with flushing():
        assert sampled() == expected
