"""Merging adapters: the arithmetic, and the adapters that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import read_adapter
from edgellm.errors import EdgeLLMError, FileError, ModelError, UnsupportedError
from tests.support.checkpoints import save, weights, write_checkpoint

pytest.importorskip("edgellm._native", reason="needs the built extension module")

TARGET = "model.layers.1.mlp.up_proj"


def write_adapter(folder: Path, *, shape: tuple[int, int] = (128, 64), **changes: Any) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((4, shape[1])), rng.standard_normal((shape[0], 4))
    name = f"base_model.model.{TARGET}"
    save(
        folder / "adapter_model.safetensors",
        {f"{name}.lora_A.weight": ("F32", a), f"{name}.lora_B.weight": ("F32", b)},
    )
    return folder


@pytest.mark.parametrize(
    ("changes", "scale"),
    [({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"up_proj": 2}}, 0.5)],
)
def test_the_product_is_added_to_its_weight_alone(
    changes: dict[str, Any], scale: float, tmp_path: Path
) -> None:
    tensors = Checkpoint(write_checkpoint(tmp_path / "base")).tensors
    deltas = read_adapter(write_adapter(tmp_path / "adapter", **changes))
    tensors.add(deltas)
    (delta,) = deltas.values()
    for name, before in weights().items():
        expected = before
        if name == f"{TARGET}.weight":
            expected = before + (scale * (delta.b @ delta.a)).astype(np.float32)
        np.testing.assert_allclose(tensors.read(name, 1), expected, rtol=1e-6, atol=1e-6)


def test_transposed_adapters_are_turned(tmp_path: Path) -> None:
    tensors = Checkpoint(write_checkpoint(tmp_path / "base")).tensors
    deltas = read_adapter(write_adapter(tmp_path / "adapter", shape=(64, 128), fan_in_fan_out=True))
    tensors.add(deltas)
    (delta,) = deltas.values()
    expected = weights()[f"{TARGET}.weight"] + (2 * (delta.b @ delta.a)).T
    np.testing.assert_allclose(tensors.read(f"{TARGET}.weight", 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "'peft_type' is 'IA3'"),
        ({"use_dora": True}, UnsupportedError, "'use_dora'"),
        ({"bias": "all"}, UnsupportedError, "'bias'"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedError, "'modules_to_save'"),
        ({"lora_alpha": "8"}, ModelError, "'lora_alpha' is '8', expected a number"),
    ],
)
def test_other_adapters_are_refused(
    changes: dict[str, Any], error: type[EdgeLLMError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        read_adapter(write_adapter(tmp_path / "adapter", **changes))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    tensors = Checkpoint(write_checkpoint(tmp_path / "base")).tensors
    with pytest.raises(ModelError, match=r"up_proj\.weight' of shape \(96, 64\)"):
        tensors.add(read_adapter(write_adapter(tmp_path / "adapter", shape=(96, 64))))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"adapter_config\.json"):
        read_adapter(tmp_path)
