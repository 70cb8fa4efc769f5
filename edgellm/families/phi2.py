"""Phi 1 to 2: one layer norm feeds attention and a plain feed-forward part; heads rotate partly."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `phi2`."""
    b = source.builder("phi2")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.parallel(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope),
        source.layer_norm,
        dense=partial(blocks.mlp, activation="gelu_tanh"),
    )
    return blocks.head(source, b, x, source.layer_norm)


_LAYER = standard.ATTENTION | {
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Phi checkpoint."""
    c.only("hidden_act", "gelu_new", "gelu_pytorch_tanh")
    c.only("qk_layernorm", False)
    out = standard.sizes(c) | standard.rope(c) | standard.layer_norm(c, "layer_norm_eps")
    return out | {"rope.dimension_count": _rotated(c)}


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, _rotated(c))
    p.add("token_embd.weight", "model.embed_tokens.weight")
    p.layer("", "model", {"output_norm": "final_layernorm"})
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
        p.add("output.bias", "lm_head.bias", optional=True)
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", _LAYER)
    return p


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share(0.5))


FAMILY = Family(
    build,
    Checkpoint(("phi",), metadata, parts),
)
