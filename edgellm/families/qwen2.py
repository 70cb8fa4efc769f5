"""Qwen 2 and 2.5: Llama's layer with biased query, key and value projections."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen2`."""
    b = source.builder("qwen2")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    windows = source.windows()
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, window=windows[i]),
        source.rms,
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 2 checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    if c.get("use_sliding_window"):
        out |= standard.windows(c, every=None)
    return out


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
        ("qwen2",),
        metadata,
        parts,
        defaults={"qwen2": {"sliding_window": 4096, "max_window_layers": 28}},
    ),
)
