"""A llama of a few thousand random weights that loads and generates: what it says means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgellm.gguf.types import GGMLType
from tests.support.gguf_builder import GGUFBuilder
from tests.support.vocabularies import small_bpe

WIDTH, HEADS, N_FF, LAYERS, CONTEXT = 32, 2, 64, 1, 256
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_builder(*, template: object = TEMPLATE, **changes: object) -> GGUFBuilder:
    """The model as a builder, to be changed before it is written."""
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": N_FF,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        **small_bpe(),
        "tokenizer.ggml.eos_token_id": 257,
    }
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    builder = GGUFBuilder()
    metadata |= changes
    for key, value in metadata.items():
        builder.kv(key, value)
    rng = np.random.default_rng(1)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    n_vocab = len(tokens)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_vocab, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (WIDTH,),
            f"blk.{i}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{i}.attn_k.weight": (WIDTH, WIDTH),
            f"blk.{i}.attn_v.weight": (WIDTH, WIDTH),
            f"blk.{i}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{i}.ffn_norm.weight": (WIDTH,),
            f"blk.{i}.ffn_gate.weight": (N_FF, WIDTH),
            f"blk.{i}.ffn_up.weight": (N_FF, WIDTH),
            f"blk.{i}.ffn_down.weight": (WIDTH, N_FF),
        }
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) * 0.3 if len(shape) > 1 else np.ones(shape)
        builder.tensor(name, GGMLType.F32, shape, values.astype("<f4"))
    return builder


def write_tiny_model(path: Path, **changes: object) -> Path:
    """Write the model; returns its path."""
    path.write_bytes(tiny_builder(**changes).build())
    return path
