"""Gemma 1: Llama's layer with GELU and scaled embeddings; the file stores norm weights with 1 added."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import AddOne
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gemma`."""
    b = source.builder("gemma")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b, source.width**0.5),
        lambda i: blocks.heads(source, i, rope=rope),
        source.rms,
        dense=partial(blocks.glu, activation="gelu_tanh"),
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Gemma checkpoint."""
    # Older configs say gelu; transformers runs the approximation by tanh for all.
    c.only("hidden_act", "gelu", "gelu_pytorch_tanh")
    c.only("hidden_activation", "gelu_pytorch_tanh")
    c.only("use_bidirectional_attention", False)
    return standard.base(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c, norm=AddOne())
    norms = dict.fromkeys(("attn_norm", "ffn_norm"), AddOne())
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, norms)
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("gemma",), metadata, parts, defaults={"gemma": {"head_dim": 256, "tie_word_embeddings": True}}
    ),
)
