"""Settings that llama.cpp's files spell in their own way, written and read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgellm.families import build, plan
from edgellm.families.transforms import ScaleRows
from edgellm.program import Program
from tests.support.variants import Variant, variants


def planned(variant: Variant) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Metadata and shapes of the file that a checkpoint makes."""
    made = plan(variant.config, variant.shapes)
    metadata = {"general.architecture": made.architecture, **made.metadata}
    return metadata, {tensor.name: tensor.shape for tensor in made.tensors}


def softcaps(program: Program) -> set[float]:
    """Caps of a program's operations that have one."""
    found = {op.attrs.get("softcap") or op.attrs.get("cap") for op in program.ops}
    return {float(cap) for cap in found if isinstance(cap, float) and cap}


def test_falcon_h1_names_one_norm_without_an_ending() -> None:
    metadata, shapes = planned(variants()["falcon_h1-small"])
    assert "blk.0.ffn_norm" in shapes
    assert "blk.0.ffn_norm" in build(metadata, shapes).weights
    ended = {name + ".weight" if name.endswith("ffn_norm") else name: shape for name, shape in shapes.items()}
    assert "blk.0.ffn_norm.weight" in build(metadata, ended).weights


@pytest.mark.parametrize("name", ["nemotron_h-small", "nemotron_h_moe-small"])
def test_nemotron_h_has_its_epsilon_under_both_keys(name: str) -> None:
    metadata, shapes = planned(variants()[name])
    architecture = metadata["general.architecture"]
    keys = [f"{architecture}.attention.layer_norm_{kind}epsilon" for kind in ("", "rms_")]
    assert metadata[keys[0]] == metadata[keys[1]]
    alone = {key: value for key, value in metadata.items() if key != keys[1]}
    assert build(alone, shapes).ops == build(metadata, shapes).ops


def test_gemma_2_without_caps_has_ones_that_change_nothing() -> None:
    metadata, shapes = planned(variants()["gemma2-no_cap"])
    caps = [key for key in metadata if key.endswith("softcapping")]
    assert len(caps) == 2
    assert all(metadata[key] > 1e29 for key in caps)
    assert not softcaps(build(metadata, shapes))
    # Files from before the caps have none of the keys, and the model's own caps.
    old = {key: value for key, value in metadata.items() if key not in caps}
    assert softcaps(build(old, shapes)) == {50.0, 30.0}


@pytest.mark.parametrize(("share", "sections"), [(0.25, [1, 1, 0, 0]), (1.0, [3, 3, 2, 0])])
def test_sections_lie_within_the_pairs_that_rotate(share: float, sections: list[int]) -> None:
    case = variants()["qwen3_5-heads"]
    text = case.config.get("text_config", case.config)
    rope = {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": share}
    changed = {key: value for key, value in text.items() if "rope" not in key} | {"rope_parameters": rope}
    config = case.config | {"text_config": changed} if "text_config" in case.config else changed
    metadata, _ = planned(replace(case, config=config))
    assert metadata["qwen35.rope.dimension_sections"] == sections


def test_sections_that_fit_stay_as_they_are() -> None:
    metadata, _ = planned(variants()["qwen3_vl-small"])
    assert metadata["qwen3vl.rope.dimension_sections"] == [2, 3, 3, 0]


def test_mpt_queries_take_the_scale_of_attention() -> None:
    case = variants()["mpt-scaled"]
    made = plan(case.config, case.shapes)
    assert "mpt.attention.scale" not in made.metadata
    width = made.metadata["mpt.embedding_length"]
    factor = 0.3 * (width / case.config["n_heads"]) ** 0.5
    matrix = next(tensor for tensor in made.tensors if tensor.name == "blk.0.attn_qkv.weight")
    assert matrix.make == ScaleRows((width, 2 * width), (factor, 1.0))
