"""GGUF files that are no models are called what they are; blocks of multi-token prediction are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.errors import ModelError, UnsupportedError
from edgellm.families import build, plan
from edgellm.gguf.types import GGMLType, ValueType
from tests.support.gguf_builder import GGUFBuilder
from tests.support.mutants import Pair, Parts, Tensor
from tests.support.references import checkpoint, converted_gguf, official_gguf

pytest.importorskip("edgellm._native", reason="needs the built extension module")

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "imatrix": ({"general.type": "imatrix", "imatrix.chunk_count": 3}, "an importance matrix"),
    "mmproj": ({"general.type": "mmproj", "general.architecture": "clip"}, r"\(mmproj\)"),
    "older mmproj": ({"general.architecture": "clip", "clip.has_vision_encoder": True}, r"\(mmproj\)"),
    "adapter": ({"general.type": "adapter", "general.architecture": "llama"}, "a LoRA adapter"),
    "control vector": ({"general.architecture": "controlvector"}, "a control vector"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_called_what_they_are(name: str, tmp_path: Path) -> None:
    pairs, message = OTHERS[name]
    builder = GGUFBuilder()
    for key, value in pairs.items():
        builder.kv(key, value)
    path = builder.tensor("a", GGMLType.F32, (4,)).write(tmp_path / "x.gguf")
    with pytest.raises(UnsupportedError, match=f"the file is {message}|the file is .*{message}"):
        Model.load(path, LoadOptions(threads=1))


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    parts = Parts.of(official_gguf("llama", tmp_path))
    path = tmp_path / "vocab.gguf"
    path.write_bytes(Parts(parts.pairs, []).build())
    with pytest.raises(UnsupportedError, match="a vocabulary without weights"):
        Model.load(path, LoadOptions(threads=1))


def with_extra_block(parts: Parts) -> Parts:
    """The file with a block of multi-token prediction after the others, as llama.cpp writes it."""
    architecture = next(pair.value for pair in parts.pairs if pair.key == "general.architecture")
    pairs = [Pair(pair.key, pair.kind, pair.element, pair.value) for pair in parts.pairs]
    count = next(pair for pair in pairs if pair.key == f"{architecture}.block_count")
    last, new = count.value - 1, count.value
    count.value += 1
    for pair in pairs:
        if pair.kind is ValueType.ARRAY and len(pair.value) == new and pair.key.startswith(architecture):
            pair.value = [*pair.value, pair.value[-1]]
    pairs.append(Pair(f"{architecture}.nextn_predict_layers", ValueType.UINT32, None, 1))
    block = [tensor for tensor in parts.tensors if tensor.name.startswith(f"blk.{last}.")]
    extra = [
        Tensor(tensor.name.replace(f"blk.{last}.", f"blk.{new}."), tensor.kind, tensor.shape, tensor.raw)
        for tensor in block
    ]
    for name in ("eh_proj", "enorm", "hnorm", "embed_tokens", "shared_head_head", "shared_head_norm"):
        extra.append(Tensor(f"blk.{new}.nextn.{name}.weight", GGMLType.F32, (4,), bytes(16)))
    return Parts(pairs, [*parts.tensors, *extra])


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_5", "qwen3_next", "deepseek_v2", "glm4"])
def test_blocks_of_multi_token_prediction_are_left_out(name: str, tmp_path: Path) -> None:
    packed = name in ("llama", "qwen3")
    source = official_gguf(name, tmp_path) if packed else converted_gguf(name, tmp_path)
    path = tmp_path / "mtp.gguf"
    parts = with_extra_block(Parts.of(source))
    path.write_bytes(parts.build())
    ids = list(range(3, 20))
    with (
        Model.load(source, LoadOptions(threads=1)) as plain,
        Model.load(path, LoadOptions(threads=1)) as more,
    ):
        assert more.program.n_layers == plain.program.n_layers
        np.testing.assert_array_equal(more.logits(ids), plain.logits(ids))
    alone = [
        tensor for tensor in parts.tensors if not tensor.name.startswith("blk.") or ".nextn." in tensor.name
    ]
    path.write_bytes(Parts(parts.pairs, alone).build())
    with pytest.raises(UnsupportedError, match="only the blocks of multi-token prediction"):
        Model.load(path, LoadOptions(threads=1))
    without = [pair for pair in parts.pairs if not pair.key.endswith("nextn_predict_layers")]
    for pair in without:
        pair.value = pair.value - 1 if pair.key.endswith(".block_count") else pair.value
    path.write_bytes(Parts(without, parts.tensors).build())
    with pytest.raises(UnsupportedError, match="does not use it"):
        Model.load(path, LoadOptions(threads=1))


def test_a_shared_expert_that_lost_its_gate_is_refused() -> None:
    config, source = checkpoint("qwen3_next")
    planned = plan(config, {key: array.shape for key, array in source.items()})
    metadata = {"general.architecture": planned.architecture, **planned.metadata}
    shapes = {tensor.name: tensor.shape for tensor in planned.tensors}
    lost = next(name for name in shapes if name.endswith("ffn_gate_inp_shexp.weight"))
    with pytest.raises(ModelError, match=r"ffn_gate_inp_shexp\.weight' is missing"):
        build(metadata, {key: shape for key, shape in shapes.items() if key != lost})
