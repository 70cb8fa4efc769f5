"""Names of tensors as tools write them, and heads beside tied embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.errors import ModelError
from tests.support.checkpoints import CONFIG, LAYERS, VOCAB, WIDTH, save, weights, write_checkpoint

pytest.importorskip("edgellm._native", reason="needs the built extension module")

HEAD = np.random.default_rng(9).standard_normal((VOCAB, WIDTH)).astype(np.float32)


def planned(folder: Path, config: dict[str, Any], named: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of the file that a checkpoint makes."""
    write_checkpoint(folder, config)
    save(folder / "model.safetensors", {name: ("F32", array) for name, array in named.items()})
    plan = plan_conversion(Checkpoint(folder), recipe("F32"), threads=1)
    return {
        tensor.name: np.concatenate(list(tensor.source.pieces())).reshape(tensor.shape)
        for tensor in plan.tensors
    }


RENAMED: dict[str, Callable[[str], str]] = {
    "usual": lambda name: name,
    "bare": lambda name: name.removeprefix("model."),
    "text_model": lambda name: name.replace("model.", "model.text_model.", 1),
    "language_model": lambda name: name.replace("model.", "model.language_model.", 1),
    "language_model first": lambda name: f"language_model.{name}",
    "language_model alone": lambda name: name.replace("model.", "language_model.", 1),
    "text_model first": lambda name: f"text_model.{name}",
    "text_model alone": lambda name: name.replace("model.", "text_model.", 1),
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled layers": lambda name: name.replace("layers.", "layers._orig_mod."),
    "several devices": lambda name: f"module.{name}",
    "compiled on several": lambda name: f"_orig_mod.module.{name}",
    "checkpointed layers": lambda name: name.replace("self_attn.", "_checkpoint_wrapped_module.self_attn."),
    "merged adapter": lambda name: f"base_model.model.{name}",
    "model twice": lambda name: name.replace("model.", "model.model.", 1),
    "of an omni model": lambda name: f"thinker.{name}",
    "of a vision model": lambda name: f"llm.{name}",
}


@pytest.mark.parametrize("name", RENAMED)
@pytest.mark.parametrize("headed", [False, True])
def test_names_around_a_text_model(name: str, headed: bool, tmp_path: Path) -> None:
    named = {RENAMED[name](key): array for key, array in weights().items()}
    if headed:
        named["language_model.lm_head.weight" if name == "language_model first" else "lm_head.weight"] = HEAD
    nested = {"model_type": "outer", "text_config": CONFIG | {"tie_word_embeddings": not headed}}
    named["model.vision_model.x.weight"] = HEAD
    found = planned(tmp_path, nested, named)
    expected = planned(tmp_path, CONFIG | {"tie_word_embeddings": True}, weights())
    assert found.keys() - expected.keys() == ({"output.weight"} if headed else set())
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


def test_two_names_of_one_tensor_are_no_riddle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no place"):
        planned(tmp_path, CONFIG, weights() | {"extra.weight": HEAD})


@pytest.mark.parametrize("inner", [None, True, False])
@pytest.mark.parametrize("outer", [None, True, False])
@pytest.mark.parametrize("head", ["none", "same", "own"])
def test_the_tensors_say_whether_the_head_is_tied(
    inner: bool | None, outer: bool | None, head: str, tmp_path: Path
) -> None:
    text = {key: value for key, value in CONFIG.items() if key != "tie_word_embeddings"}
    config: dict[str, Any] = {"model_type": "outer", "text_config": text}
    if inner is not None:
        text["tie_word_embeddings"] = inner
    if outer is not None:
        config["tie_word_embeddings"] = outer
    named = weights()
    if head != "none":
        named["lm_head.weight"] = HEAD if head == "own" else named["model.embed_tokens.weight"]
    says_tied = True in (inner, outer)
    if head == "none" and not says_tied and (inner, outer) != (None, None):
        with pytest.raises(ModelError, match=r"'lm_head\.weight' is missing"):
            planned(tmp_path, config, named)
        return
    found = planned(tmp_path, config, named)
    if head == "own":
        np.testing.assert_array_equal(found["output.weight"], HEAD)
    else:
        assert ("output.weight" in found) == (head == "same" and not says_tied)


@pytest.mark.parametrize("architecture", ["LlamaModel", "LlamaForCausalLM"])
def test_a_model_that_was_saved_without_a_head(architecture: str, tmp_path: Path) -> None:
    named = {name.removeprefix("model."): array for name, array in weights().items()}
    config = CONFIG | {"tie_word_embeddings": False, "architectures": [architecture]}
    if architecture == "LlamaModel":
        assert "output.weight" not in planned(tmp_path, config, named)
        return
    with pytest.raises(ModelError, match=r"'lm_head\.weight' is missing"):
        planned(tmp_path, config, named)


def test_layers_of_multi_token_prediction_are_left_out(tmp_path: Path) -> None:
    extra = {f"model.layers.{LAYERS}.{name}": HEAD for name in ("eh_proj.weight", "enorm.weight")}
    config = CONFIG | {"num_nextn_predict_layers": 1}
    assert planned(tmp_path, config, weights() | extra).keys() == planned(tmp_path, CONFIG, weights()).keys()
    with pytest.raises(ModelError, match=rf"layers\.{LAYERS}\..*has no place"):
        planned(tmp_path, CONFIG, weights() | extra)


def test_a_byte_order_mark_before_json(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert plan_conversion(Checkpoint(tmp_path), recipe("F32"), threads=1).tensors
