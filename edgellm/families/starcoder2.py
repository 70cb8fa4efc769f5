"""StarCoder 2: layer norm, rotated grouped-query attention, a plain GELU part, biases throughout."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `starcoder2`."""
    window = source.metadata.integer("attention.sliding_window", 0, minimum=0)
    b = source.builder("starcoder2")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, window=window),
        source.layer_norm,
        dense=partial(blocks.mlp, activation="gelu_tanh"),
    )
    return blocks.head(source, b, x, source.layer_norm)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a StarCoder 2 checkpoint."""
    c.only("hidden_act", "gelu_pytorch_tanh")
    out = standard.sizes(c) | standard.rope(c)
    if c.get("sliding_window") is not None:
        out["attention.sliding_window"] = c.integer("sliding_window")
    return out | standard.layer_norm(c, "norm_epsilon")


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(("starcoder2",), metadata, parts),
)
