"""Small checkpoints written by hand, to convert and to damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.tokenizer.alphabet import BYTE_TO_CHAR

WIDTH, LAYERS, FF, VOCAB = 64, 2, 128, 320
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": VOCAB,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_NUMPY = {
    "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E8M0": "u1", "U8": "u1", "I8": "i1",
    "I32": "<i4", "U32": "<u4", "I64": "<i8",
}  # fmt: skip


def weights() -> dict[str, NDArray[np.float32]]:
    """Random weights of a llama of CONFIG's shape."""
    rng = np.random.default_rng(5)

    def matrix(rows: int, cols: int) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, cols)) * 0.2).astype(np.float32)

    found = {
        "model.embed_tokens.weight": matrix(VOCAB, WIDTH),
        "model.norm.weight": np.ones(WIDTH, np.float32),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{name}.weight"] = np.ones(WIDTH, np.float32)
        for name, rows in (
            ("q_proj", WIDTH),
            ("k_proj", WIDTH // 2),
            ("v_proj", WIDTH // 2),
            ("o_proj", WIDTH),
        ):
            found[f"{layer}.self_attn.{name}.weight"] = matrix(rows, WIDTH)
        found[f"{layer}.mlp.gate_proj.weight"] = matrix(FF, WIDTH)
        found[f"{layer}.mlp.up_proj.weight"] = matrix(FF, WIDTH)
        found[f"{layer}.mlp.down_proj.weight"] = matrix(WIDTH, FF)
    return found


def save(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> None:
    """A safetensors file of name -> (dtype, array); 16-bit floats of type BF16 are given as their bits."""
    header, blobs, at = {}, [], 0
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).astype(_NUMPY[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    """A byte-level BPE tokenizer of 256 bytes, a few merges and two special tokens."""
    letters = [chr(BYTE_TO_CHAR[byte]) for byte in range(256)]
    texts = ["<s>", "</s>", *letters, "Ġt", "he", "Ġthe"]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
            | {"single_word": False}
            for i, text in enumerate(texts[:2])
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": [["Ġ", "t"], ["h", "e"], ["Ġt", "he"]],
            "ignore_merges": False,
        },
    } | changes


def write_settings(folder: Path, config: Mapping[str, Any] = CONFIG) -> None:
    """All of a checkpoint in `folder` except its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def write_checkpoint(folder: Path, config: Mapping[str, Any] = CONFIG) -> Path:
    """A whole checkpoint in `folder`."""
    write_settings(folder, config)
    save(folder / "model.safetensors", {name: ("F32", array) for name, array in weights().items()})
    return folder


def write_shards(folder: Path) -> Path:
    """The same in two shards and an index."""
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    named = list(weights().items())
    index: dict[str, str] = {}
    for i, part in enumerate((named[:9], named[9:])):
        name = f"model-0000{i + 1}-of-00002.safetensors"
        save(folder / name, {key: ("F32", array) for key, array in part})
        index |= dict.fromkeys((key for key, _ in part), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder
