"""Granite 3 and 4, dense: Llama's layer with four multipliers."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `granite`."""
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


FAMILY = Family("granite", ("granite",), build)
