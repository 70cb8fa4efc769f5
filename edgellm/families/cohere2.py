"""Command R7B: one layer norm feeds attention and feed-forward; only local layers are rotated."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `cohere2`."""
    b = source.builder("cohere2")
    windows = source.windows(every=4)
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors()) if any(windows) else None

    def attention(i: int) -> blocks.Attention:
        return blocks.heads(source, i, rope=rope if windows[i] else None, window=windows[i])

    x = layers.parallel(source, b, blocks.embed(b), attention, source.layer_norm)
    return blocks.head(source, b, x, source.layer_norm, scale=source.metadata.number("logit_scale", 1.0))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Command R7B checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.sizes(c) | standard.rope(c)
    out |= standard.layer_norm(c, "layer_norm_eps") | standard.windows(c, every=4)
    out["logit_scale"] = c.number("logit_scale")
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = _rotated(c)
    if c.rope().kind == "default":
        out["rope.scaling.type"] = "none"
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, _rotated(c))
    standard.ends(p, c)
    names = standard.ATTENTION | standard.GLU
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share())


FAMILY = Family(
    build,
    Checkpoint(
        ("cohere2",),
        metadata,
        parts,
        defaults={"cohere2": {"sliding_window": 4096, "logit_scale": 0.0625}},
    ),
)
