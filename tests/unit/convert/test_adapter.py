"""PEFT adapters as GGUF files: scales, base models, and the adapters that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.cli import main
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.quant import decode
from tests.support.checkpoints import FF, WIDTH, save, write_checkpoint

pytest.importorskip("edgellm._native", reason="needs the built extension module")

Floats = NDArray[np.float32]
TARGETS = {
    "model.layers.0.self_attn.q_proj": (WIDTH, WIDTH),
    "model.layers.1.mlp.up_proj": (FF, WIDTH),
}


def write_adapter(folder: Path, targets: dict[str, tuple[int, int]] = TARGETS, **changes: Any) -> Path:
    """A PEFT adapter of rank 4; `ranks` are those of other targets."""
    folder.mkdir()
    ranks: dict[str, int] = changes.pop("ranks", {})
    value = changes.pop("value", None)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    rng = np.random.default_rng(3)
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, (n_out, n_in) in targets.items():
        rank = ranks.get(name, 4)
        a, b = rng.standard_normal((rank, n_in)), rng.standard_normal((n_out, rank))
        if value is not None:
            b[0, 0] = value
        tensors[f"base_model.model.{name}.lora_A.weight"] = ("F32", a)
        tensors[f"base_model.model.{name}.lora_B.weight"] = ("F32", b)
    save(folder / "adapter_model.safetensors", tensors)
    return folder


def read(path: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    with GGUFFile.open(path) as file:
        values = {
            name: decode(info.type, file.data(name), info.shape).copy() for name, info in file.tensors.items()
        }
        return dict(file.metadata), values


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base")


def test_the_file_is_in_the_form_that_readers_know(base: Path, tmp_path: Path) -> None:
    from gguf import constants

    adapter = write_adapter(tmp_path / "pirate", base_model_name_or_path=str(base))
    out = tmp_path / "out.gguf"
    assert main(["convert", str(adapter), str(out)]) == 0
    metadata, tensors = read(out)
    assert metadata == {
        constants.Keys.General.ARCHITECTURE: "llama",
        constants.Keys.General.TYPE: constants.GGUFType.ADAPTER,
        constants.Keys.General.NAME: "pirate",
        constants.Keys.Adapter.TYPE: "lora",
        constants.Keys.Adapter.LORA_ALPHA: 8.0,
    }
    assert {name: array.shape for name, array in tensors.items()} == {
        "blk.0.attn_q.weight.lora_a": (4, WIDTH),
        "blk.0.attn_q.weight.lora_b": (WIDTH, 4),
        "blk.1.ffn_up.weight.lora_a": (4, WIDTH),
        "blk.1.ffn_up.weight.lora_b": (FF, 4),
    }


def test_a_file_says_as_much_of_the_base_as_its_checkpoint(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "pirate")
    model = tmp_path / "model.gguf"
    assert main(["convert", str(base), str(model), "--type", "F32", "--no-receipt"]) == 0
    for name, source in (("a.gguf", base), ("b.gguf", model)):
        assert main(["convert", str(adapter), str(tmp_path / name), "--base", str(source)]) == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    half = tmp_path / "half.gguf"
    assert main(["convert", str(adapter), str(half), "--base", str(model), "--type", "F16"]) == 0
    with GGUFFile.open(half) as file:
        assert {info.type for info in file.tensors.values()} == {GGMLType.F16}


@pytest.mark.parametrize(
    ("changes", "alpha", "scales"),
    [
        ({}, 8.0, (2.0, 2.0)),
        ({"use_rslora": True}, 16.0, (4.0, 4.0)),
        ({"alpha_pattern": {"up_proj": 2, "proj": 77}}, None, (2.0, 0.5)),
        (
            {"rank_pattern": {"layers.1.mlp.up_proj": 2}, "ranks": {"model.layers.1.mlp.up_proj": 2}},
            None,
            (2.0, 4.0),
        ),
        ({"lora_alpha": 0}, 1.0, (0.0, 0.0)),
    ],
)
def test_every_scale_is_kept(
    changes: dict[str, Any], alpha: float | None, scales: tuple[float, float], base: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", **changes)
    unscaled = write_adapter(
        tmp_path / "unscaled", **{k: v for k, v in changes.items() if "rank" in k}, lora_alpha=4
    )
    for folder in (adapter, unscaled):
        out = tmp_path / f"{folder.name}.gguf"
        assert main(["convert", str(folder), str(out), "--base", str(base)]) == 0
    metadata, tensors = read(tmp_path / "adapter.gguf")
    others = read(tmp_path / "unscaled.gguf")
    if alpha is not None:
        assert metadata["adapter.lora.alpha"] == alpha
    for weight, scale in zip(("blk.0.attn_q.weight", "blk.1.ffn_up.weight"), scales, strict=True):
        # Alpha 4 is a scale of 1 for a rank of 4.
        rank = len(tensors[f"{weight}.lora_a"])
        expected = scale * rank / 4 * product(*others, weight)
        np.testing.assert_allclose(product(metadata, tensors, weight), expected, rtol=1e-5, atol=1e-6)


def product(metadata: dict[str, Any], tensors: dict[str, Floats], weight: str) -> Floats:
    """Update that a reader of the file adds to a weight."""
    a, b = tensors[f"{weight}.lora_a"], tensors[f"{weight}.lora_b"]
    found: Floats = metadata["adapter.lora.alpha"] / len(a) * b @ a
    return found


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another weight": ({"targets": {"model.layers.7.mlp.up_proj": (FF, WIDTH)}}, "does not have"),
    "another width": ({"targets": {"model.layers.1.mlp.up_proj": (96, WIDTH)}}, r"of shape \(96, 64\)"),
    "odd heads": ({"targets": {"model.layers.0.self_attn.q_proj": (30, WIDTH)}}, "does not fit the model"),
    "the embedding": ({"targets": {"model.embed_tokens": (320, WIDTH)}}, "not the matrix of a linear layer"),
    "the tied head": ({"targets": {"lm_head": (320, WIDTH)}}, "shares with its embedding"),
    "not finite": ({"value": np.nan}, "not finite"),
    "another rank": ({"r": 8}, r"the rank of .* is 8, and its matrices have 4"),
    "no rank pattern": ({"rank_pattern": [1]}, "'rank_pattern' is .* expected an object"),
    "a bad pattern": (
        {"alpha_pattern": {"(": 1}},
        r"'alpha_pattern' has '\(', expected a regular expression",
    ),
    "another start": ({"init_lora_weights": "pissa_niter_4"}, "'init_lora_weights' is 'pissa_niter_4'"),
    "biases": ({"lora_bias": True}, "'lora_bias' is 'True'"),
    "nothing": ({"targets": {}}, "holds no matrices"),
    "transposed": ({"fan_in_fan_out": True}, "merge it with `edgellm convert BASE OUT --lora`"),
}


@pytest.mark.parametrize("fault", list(REFUSED))
def test_what_cannot_be_followed_is_refused_in_a_sentence(
    fault: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, message = REFUSED[fault]
    adapter = write_adapter(tmp_path / "adapter", **changes)
    out = tmp_path / "out.gguf"
    assert main(["convert", str(adapter), str(out), "--base", str(base)]) == 1
    complaint = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(complaint)
    assert len(complaint.splitlines()) == 1
    assert not list(tmp_path.glob("out.gguf*"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 1, "its base model 'org/base' is no folder of a checkpoint here"),
        (("--base", "nowhere"), 1, "its base model 'nowhere'"),
        (("--type", "Q4_K_M"), 2, "'Q4_K_M', expected one of F32, F16, BF16"),
        (("--lora", "other"), 2, "has no meaning for the adapter"),
        (("--min-top1", "0.9"), 2, "has no meaning for the adapter"),
    ],
)
def test_options_that_do_not_fit_an_adapter(
    arguments: tuple[str, ...],
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    assert main(["convert", str(adapter), str(tmp_path / "out.gguf"), *arguments]) == status
    assert message in capsys.readouterr().err


def test_a_base_is_for_adapters_only(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(base), str(tmp_path / "out.gguf"), "--base", str(base)]) == 2
    assert "--base is for adapters" in capsys.readouterr().err
