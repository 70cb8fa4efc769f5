"""Qwen 3: Llama's layer with normalized query and key heads."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen3`."""
    return stack(source, "qwen3")


def stack(source: Source, family: str, moe: blocks.Experts | None = None) -> Program:
    """Layers that Qwen 3 has with experts and without."""
    b = source.builder(family)
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    windows = source.windows()

    def attention(i: int) -> blocks.Attention:
        return blocks.heads(source, i, rope=rope, window=windows[i], qk_norm="head", norm=source.rms)

    x = layers.sequential(source, b, blocks.embed(b), attention, source.rms, moe=moe)
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 3 checkpoint."""
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
    names = standard.ATTENTION | standard.QK_NORM | standard.FFN_NORM | standard.GLU
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("qwen3",),
        metadata,
        parts,
        defaults={"qwen3": {"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28}},
    ),
)
