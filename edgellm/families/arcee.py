"""Arcee's AFM: Llama's attention over a plain feed-forward part with squared ReLU."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `arcee`."""
    b = source.builder("arcee")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope),
        source.rms,
        dense=partial(blocks.mlp, activation="relu2"),
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an Arcee checkpoint."""
    c.only("hidden_act", "relu2")
    out = standard.base(c)
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = c.head_dim
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM
    names |= {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, pairs)
    return p


FAMILY = Family(
    build,
    Checkpoint(("arcee",), metadata, parts),
)
