"""Writes a checkpoint of random weights in a known model's shape, to measure its size without fetching it.

    python bench/random_model.py qwen2.5-1.5b checkpoint/
    edgellm convert checkpoint/ model.gguf --type Q4_K_M
    edgellm bench -m model.gguf

Speed depends on shapes and formats, not on the values of weights; the answers are meaningless. The vocabulary
has the model's size, but all except 261 of its tokens are padding.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.checkpoints import write_settings  # noqa: E402

_SHARED = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rope_theta": 1e6,
}


def _config(
    kind: str, width: int, layers: int, heads: int, kv: int, ff: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        **_SHARED,
        "model_type": kind.lower(),
        "architectures": [f"{kind}ForCausalLM"],
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ff,
        "vocab_size": vocab,
        "head_dim": width // heads,
        "tie_word_embeddings": True,
        **more,
    }


# As in the models' own config.json.
SHAPES = {
    "smollm2-360m": _config("Llama", 960, 32, 15, 5, 2560, 49152),
    "qwen2.5-0.5b": _config("Qwen2", 896, 24, 14, 2, 4864, 151936),
    "llama-3.2-1b": _config("Llama", 2048, 16, 32, 8, 8192, 128256),
    "qwen2.5-1.5b": _config("Qwen2", 1536, 28, 12, 2, 8960, 151936),
    "qwen3-1.7b": _config("Qwen3", 2048, 28, 16, 8, 6144, 151936, head_dim=128),
    "gemma-4-e2b": _config(
        "Gemma4",
        *(1536, 35, 8, 1, 6144, 262144),
        model_type="gemma4_text",
        head_dim=256,
        global_head_dim=512,
        hidden_size_per_layer_input=256,
        num_kv_shared_layers=20,
        use_double_wide_mlp=True,
        layer_types=["full_attention" if i % 5 == 4 else "sliding_attention" for i in range(35)],
        sliding_window=512,
        hidden_activation="gelu_pytorch_tanh",
        final_logit_softcapping=30.0,
    ),
    "mistral-7b": _config("Mistral", 4096, 32, 32, 8, 14336, 32768, tie_word_embeddings=False),
}


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a checkpoint of the Llama, Mistral, Qwen2, Qwen3 or Gemma 4 architecture."""
    if config["model_type"] == "gemma4_text":
        yield from _gemma4(config)
        return
    width, ff, vocab, head = (
        config[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "head_dim")
    )
    rows = {"q": config["num_attention_heads"] * head, "k": config["num_key_value_heads"] * head}
    rows["v"] = rows["k"]
    yield "model.embed_tokens.weight", (vocab, width)
    yield "model.norm.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, width)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        for name, n in rows.items():
            yield f"{layer}.self_attn.{name}_proj.weight", (n, width)
            if config["model_type"] == "qwen2":
                yield f"{layer}.self_attn.{name}_proj.bias", (n,)
            if config["model_type"] == "qwen3" and name != "v":
                yield f"{layer}.self_attn.{name}_norm.weight", (head,)
        yield f"{layer}.self_attn.o_proj.weight", (width, rows["q"])
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (ff, width)
        yield f"{layer}.mlp.down_proj.weight", (width, ff)


def _gemma4(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of Gemma 4's small models, without keys and values where a cache is shared."""
    width, vocab, n_layers = (config[k] for k in ("hidden_size", "vocab_size", "num_hidden_layers"))
    side, first_shared = config["hidden_size_per_layer_input"], n_layers - config["num_kv_shared_layers"]
    yield "model.embed_tokens.weight", (vocab, width)
    yield "model.norm.weight", (width,)
    yield "model.embed_tokens_per_layer.weight", (vocab, n_layers * side)
    yield "model.per_layer_model_projection.weight", (n_layers * side, width)
    yield "model.per_layer_projection_norm.weight", (side,)
    for i, kind in enumerate(config["layer_types"]):
        layer = f"model.layers.{i}"
        head = config["global_head_dim" if kind == "full_attention" else "head_dim"]
        rows = {"q": config["num_attention_heads"] * head}
        if i < first_shared:
            rows |= dict.fromkeys("kv", config["num_key_value_heads"] * head)
        for name, n in rows.items():
            yield f"{layer}.self_attn.{name}_proj.weight", (n, width)
            if name != "v":
                yield f"{layer}.self_attn.{name}_norm.weight", (head,)
        yield f"{layer}.self_attn.o_proj.weight", (width, rows["q"])
        ff = config["intermediate_size"] * (1 if i < first_shared else 2)
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (ff, width)
        yield f"{layer}.mlp.down_proj.weight", (width, ff)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{layer}.{name}_layernorm.weight", (width,)
        yield f"{layer}.per_layer_input_gate.weight", (side, width)
        yield f"{layer}.per_layer_projection.weight", (width, side)
        yield f"{layer}.post_per_layer_input_norm.weight", (width,)
        yield f"{layer}.layer_scalar", (1,)


def _bfloat16(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Bits of BF16 values: a matrix keeps the size of the values it multiplies, a vector's values are around
    one.
    """
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(1 / 16 if len(shape) == 1 else shape[1] ** -0.5)
    values += np.float32(len(shape) == 1)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write(folder: Path, config: dict[str, Any]) -> int:
    """Write a whole checkpoint in `folder`, tensor by tensor. Returns the bytes of its weights."""
    write_settings(folder, config)
    header, at = {}, 0
    for name, shape in tensors(config):
        n = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (at, at + n)}
        at += n
    rng = np.random.default_rng(1)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(config):
            print(f"\r\x1b[K{name}", end="", file=sys.stderr)
            file.write(_bfloat16(shape, rng).tobytes())
    print("\r\x1b[K", end="", file=sys.stderr)
    return at


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path, help="to write; must not exist")
    parser.add_argument(
        "--vocab", type=int, help="rows of the embeddings, where the model's take too much room"
    )
    args = parser.parse_args()
    if args.folder.exists():
        print(f"{args.folder} exists; name a folder that does not", file=sys.stderr)
        return 2
    config = SHAPES[args.shape] | ({"vocab_size": args.vocab} if args.vocab else {})
    print(f"{args.folder}: {write(args.folder, config) / 1e9:.2f} GB of weights in BF16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
