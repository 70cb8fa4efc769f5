"""ERNIE 4.5, dense: Llama's layer over heads whose neighbouring values rotate together."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `ernie4_5`."""
    b = source.builder("ernie4_5")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = layers.sequential(
        source, b, blocks.embed(b), lambda i: blocks.heads(source, i, rope=rope), source.rms
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a ERNIE 4.5 checkpoint."""
    c.only("hidden_act", "silu")
    return standard.base(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("ernie4_5",), metadata, parts, defaults={"ernie4_5": {"head_dim": 128, "rope_theta": 500000.0}}
    ),
)
