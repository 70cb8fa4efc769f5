"""Blocks of multi-token prediction in checkpoints: planned as llama.cpp names them, all of them or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgellm.cli import main
from edgellm.errors import ModelError
from edgellm.families import build, plan
from tests.support.references import checkpoint
from tests.support.variants import variants, write_variant

Shapes = dict[str, tuple[int, ...]]
NEXTN = {"eh_proj", "enorm", "hnorm", "shared_head_norm"}
REPEATED = {"embed_tokens", "shared_head_head"}


def numbered(name: str) -> tuple[dict[str, Any], Shapes]:
    """A case with a block that repeats its last layer, as GLM's and DeepSeek's checkpoints have it."""
    case = variants()[name]
    n, width = case.config["num_hidden_layers"], case.config["hidden_size"]
    last, new = f"model.layers.{n - 1}.", f"model.layers.{n}."
    shapes = {key.replace(last, new): shape for key, shape in case.shapes.items() if key.startswith(last)}
    shapes |= {f"{new}eh_proj.weight": (width, 2 * width), f"{new}embed_tokens.weight": (128, width)}
    shapes |= {f"{new}{part}.weight": (width,) for part in ("enorm", "hnorm", "shared_head.norm")}
    shapes[f"{new}shared_head.head.weight"] = (128, width)
    return case.config | {"num_nextn_predict_layers": 1}, dict(case.shapes) | shapes


def separate(config: dict[str, Any], shapes: Shapes, full: int) -> tuple[dict[str, Any], Shapes]:
    """A checkpoint with Qwen's `mtp` tensors, whose layer is one with full attention."""
    text = config.get("text_config", config)
    width = text["hidden_size"]
    layer = {}
    for key, shape in shapes.items():
        _, found, part = key.partition(f"layers.{full}.")
        if found:
            layer[f"mtp.layers.0.{part}"] = shape
    layer |= {"mtp.fc.weight": (width, 2 * width), "mtp.norm.weight": (width,)}
    layer |= {f"mtp.pre_fc_norm_{part}.weight": (width,) for part in ("embedding", "hidden")}
    return config, shapes | layer


def cases() -> dict[str, tuple[dict[str, Any], Shapes]]:
    found = {name: numbered(name) for name in ("glm4_moe-small", "glm4_moe_lite-small")}
    moe = variants()["qwen3_5_moe-small"]
    found["qwen3_5_moe-small"] = separate(moe.config, dict(moe.shapes), 1)
    for name in ("qwen3_5", "qwen3_next"):
        config, weights = checkpoint(name)
        types = config.get("text_config", config)["layer_types"]
        shapes = {key: array.shape for key, array in weights.items()}
        found[name] = separate(config, shapes, types.index("full_attention"))
    return found


@pytest.mark.parametrize(
    "name", ["glm4_moe-small", "glm4_moe_lite-small", "qwen3_5_moe-small", "qwen3_5", "qwen3_next"]
)
def test_a_block_is_kept_and_not_run(name: str) -> None:
    config, shapes = cases()[name]
    planned = plan(config, shapes)
    architecture, metadata = planned.architecture, planned.metadata
    n_layers = config.get("text_config", config)["num_hidden_layers"]
    assert metadata[f"{architecture}.block_count"] == n_layers + 1
    assert metadata[f"{architecture}.nextn_predict_layers"] == 1
    made = {tensor.name: tensor.shape for tensor in planned.tensors}
    block = {key.removeprefix(f"blk.{n_layers}."): shape for key, shape in made.items()}
    nextn = {key.split(".")[1] for key in block if key.startswith("nextn.")}
    assert nextn == (NEXTN | REPEATED if name.startswith("glm4") else NEXTN)
    width = metadata[f"{architecture}.embedding_length"]
    assert block["nextn.eh_proj.weight"] == (width, 2 * width)
    assert "attn_output.weight" in block
    program = build({"general.architecture": architecture, **metadata}, made)
    assert program.n_layers == n_layers
    assert not any(key.startswith(f"blk.{n_layers}.") for key in program.weights)


@pytest.mark.parametrize("name", ["glm4_moe-small", "qwen3_5_moe-small"])
def test_a_block_without_one_of_its_tensors_is_refused(name: str) -> None:
    config, shapes = cases()[name]
    missing = next(key for key in shapes if key.endswith(("enorm.weight", "embedding.weight")))
    with pytest.raises(ModelError, match="is missing"):
        plan(config, {key: shape for key, shape in shapes.items() if key != missing})


def test_a_checkpoint_whose_block_was_left_out_is_planned_without_it() -> None:
    case = variants()["glm4_moe-small"]
    planned = plan(case.config | {"num_nextn_predict_layers": 1}, case.shapes)
    without = plan(case.config | {"num_nextn_predict_layers": 0}, case.shapes)
    assert planned.metadata == without.metadata
    assert [tensor.name for tensor in planned.tensors] == [tensor.name for tensor in without.tensors]


def test_show_names_the_blocks_of_a_converted_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, shapes = cases()["glm4_moe-small"]
    write_variant(replace(variants()["glm4_moe-small"], config=config, shapes=shapes), tmp_path)
    out = str(tmp_path / "out.gguf")
    assert main(["convert", str(tmp_path), out, "--type", "F32", "--no-receipt"]) == 0
    capsys.readouterr()
    assert main(["show", "-m", out]) == 0
    assert "not run       1 block of multi-token prediction\n" in capsys.readouterr().out
