"""FP8 weights: scales for tensors, rows and blocks of any size, also where their numbers coincide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Checkpoint
from edgellm.errors import EdgeLLMError
from tests.support.checkpoints import CONFIG, save, write_checkpoint

pytest.importorskip("edgellm._native", reason="needs the built extension module")

FP8 = {"quant_method": "fp8"}


def value(codes: NDArray[Any]) -> NDArray[np.float64]:
    exponent, fraction = (codes >> 3 & 15).astype(int), (codes & 7) / 8
    return np.where(exponent == 0, np.ldexp(fraction, -6), np.ldexp(1 + fraction, exponent - 7))


def spread(scale: NDArray[Any], shape: tuple[int, ...], block: tuple[int, int]) -> NDArray[Any]:
    """The scale of each value, one by one."""
    out = np.empty(shape)
    for index in np.ndindex(*shape):
        out[index] = scale[(*index[:-2], index[-2] // block[0], index[-1] // block[1])]
    return out


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, int], dict[str, Any]]] = {
    # shape of the weight, of its scale, of the block, config
    "as many blocks as rows": ((128, 16384), (1, 128), (128, 128), FP8),
    "as many blocks as rows, twice": ((4, 512), (1, 4), (128, 128), {}),
    "one row": ((1, 300), (1, 3), (128, 128), FP8),
    "small blocks": ((64, 96), (2, 3), (32, 32), FP8 | {"weight_block_size": [32, 32]}),
    "flat blocks": ((10, 64), (10, 2), (1, 32), FP8 | {"weight_block_size": [1, 32]}),
    "tall blocks": ((100, 8), (2, 8), (64, 1), FP8 | {"weight_block_size": [64, 1]}),
    "uneven": ((130, 200), (2, 2), (128, 128), FP8),
    "rows": ((128, 256), (128, 1), (1, 256), FP8),
    "vector of rows": ((128, 256), (128,), (1, 256), FP8),
    "stacked blocks": ((3, 130, 200), (3, 2, 2), (128, 128), FP8),
    "stacked rows": ((3, 10, 20), (3, 10, 1), (1, 20), FP8),
    "stacked matrices": ((3, 10, 20), (3, 1, 1), (10, 20), FP8),
    "compressed-tensors": (
        (64, 96), (2, 3), (32, 32),
        {"quant_method": "compressed-tensors",
         "config_groups": {"group_0": {"weights": {"num_bits": 8, "block_structure": [32, 32]}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
def test_scales(name: str, suffix: str, tmp_path: Path) -> None:
    shape, scale_shape, block, config = CASES[name]
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 120, shape).astype(np.uint8)
    scale = np.exp(rng.normal(0, 1, scale_shape)).astype(np.float32)
    write_checkpoint(tmp_path, CONFIG | {"quantization_config": config})
    named: dict[str, Any] = {"a.weight": ("F8_E4M3", codes), f"a.weight{suffix}": ("F32", scale)}
    for other in (
        "k_scale",
        "v_scale",
        "q_scale",
        "input_scale",
        "kv_scale",
        "k_proj.k_scale",
        "output_scale",
    ):
        named[f"a.{other}"] = ("F32", np.ones(1))
    save(tmp_path / "model.safetensors", named)
    tensors = Checkpoint(tmp_path).tensors
    assert set(tensors.shapes) == {"a.weight"}
    each = scale[:, None] if scale.ndim == 1 else scale
    expected = value(codes) * spread(each, shape, block)
    np.testing.assert_allclose(tensors.read("a.weight", 1), expected, rtol=1e-5)
    pieces = np.concatenate(list(tensors.pieces("a.weight", 1, 1)))
    np.testing.assert_allclose(pieces, expected.reshape(-1, shape[-1]), rtol=1e-5)


def test_scales_that_are_powers_of_two(tmp_path: Path) -> None:
    codes = np.full((128, 256), 0x38, np.uint8)
    write_checkpoint(tmp_path)
    named = {"a.weight": ("F8_E4M3", codes), "a.weight_scale_inv": ("F8_E8M0", np.array([[130, 126]]))}
    save(tmp_path / "model.safetensors", named)
    read = Checkpoint(tmp_path).tensors.read("a.weight", 1)
    assert (read[:, :128] == 8).all()
    assert (read[:, 128:] == 0.5).all()


@pytest.mark.parametrize(
    ("scale", "config", "message"),
    [
        ((2, 2), FP8, r"one for each block of 128 x 128"),
        ((1, 256), FP8, r"has shape \(1, 256\)"),
        ((2, 3), FP8 | {"weight_block_size": [64, 64]}, r"block of 64 x 64"),
        ((2, 3), FP8 | {"weight_block_size": [0, 64]}, "FP8 blocks is"),
        ((2, 3), FP8 | {"weight_block_size": 7}, "FP8 blocks is 7"),
    ],
)
def test_scales_of_another_size_are_refused(
    scale: tuple[int, ...], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, CONFIG | {"quantization_config": config})
    named = {"a.weight": ("F8_E4M3", np.zeros((64, 256))), "a.weight_scale_inv": ("F32", np.ones(scale))}
    save(tmp_path / "model.safetensors", named)
    with pytest.raises(EdgeLLMError, match=message):
        Checkpoint(tmp_path).tensors.read("a.weight", 1)
