"""Granite 3 and 4, dense: Llama's layer with four multipliers."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `granite`."""
    m = source.metadata
    residual = m.number("residual_scale", 1.0)
    b = source.builder("granite")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = blocks.embed(b, m.number("embedding_scale", 1.0))
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        y = blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope))
        x = blocks.add(b, x, y, residual)
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        x = blocks.add(b, x, blocks.glu(b, y, blk, source.n_ff[i]), residual)
    return blocks.head(source, b, x, source.rms, scale=1 / m.number("logit_scale", 1.0))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Granite checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = c.head_dim
    out["attention.scale"] = c.number("attention_multiplier")
    out["embedding_scale"] = c.number("embedding_multiplier")
    out["residual_scale"] = c.number("residual_multiplier")
    out["logit_scale"] = c.number("logits_scaling")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, pairs)
    return p


_MULTIPLIERS = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
FAMILY = Family(
    build,
    Checkpoint(("granite",), metadata, parts, defaults={"granite": dict.fromkeys(_MULTIPLIERS, 1.0)}),
)
