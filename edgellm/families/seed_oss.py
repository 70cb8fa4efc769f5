"""Seed-OSS: Llama's layer with biased query, key and value projections and wide heads."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `seed_oss`."""
    b = source.builder("seed_oss")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope),
        source.rms,
        ffn_norm="post_attention_norm",
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Seed-OSS checkpoint."""
    c.only("hidden_act", "silu")
    return standard.base(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.GLU | {"post_attention_norm": "post_attention_layernorm"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(("seed_oss",), metadata, parts, defaults={"seed_oss": {"head_dim": 128}}),
)
