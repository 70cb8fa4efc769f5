"""GPT-2: learned positions, layer norm, one matrix for query, key and value, a plain GELU part."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Copy, Transpose
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gpt2`."""
    b = source.builder("gpt2")
    positions = b.embed("position_embd.weight", source.n_ctx_train, source.width, source="position")
    x = layers.sequential(
        source,
        b,
        b.add(blocks.embed(b), positions),
        lambda i: blocks.heads(source, i, rope=None),
        source.layer_norm,
        dense=partial(blocks.mlp, activation="gelu_tanh"),
    )
    return blocks.head(source, b, x, source.layer_norm)


# The matrices are stored transposed.
_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a GPT-2 checkpoint."""
    c.only("activation_function", "gelu_new", "gelu_pytorch_tanh")
    c.only("scale_attn_by_inverse_layer_idx", False)
    c.only("scale_attn_weights", True)
    c.only("add_cross_attention", False)
    return {
        "block_count": c.n_layers,
        "context_length": c.integer("n_positions", "n_ctx"),
        "embedding_length": c.width,
        "feed_forward_length": c.integer("n_inner", default=4 * c.width),
        "attention.head_count": c.n_heads,
    } | standard.layer_norm(c, "layer_norm_epsilon")


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    for root in ("transformer.", ""):
        p.add("token_embd.weight", f"{root}wte.weight", optional=not root)
        p.add("position_embd.weight", f"{root}wpe.weight", optional=not root)
        for kind in ("weight", "bias"):
            p.add(f"output_norm.{kind}", f"{root}ln_f.{kind}", optional=not root)
    if c.tied is False:
        p.add("output.weight", "lm_head.weight")
    for i in range(c.n_layers):
        for root in ("transformer.h", "h"):
            for gguf, hf in _LAYER.items():
                for kind in ("weight", "bias"):
                    matrix = kind == "weight" and "norm" not in gguf
                    p.add(
                        f"blk.{i}.{gguf}.{kind}",
                        f"{root}.{i}.{hf}.{kind}",
                        make=Transpose() if matrix else Copy(),
                        optional=root == "h",
                    )
    return p


FAMILY = Family(
    build,
    Checkpoint(("gpt2",), metadata, parts),
    f32=(r"position_embd\.weight",),
)
