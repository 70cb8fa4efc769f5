"""Command R7B: one layer norm feeds attention and feed-forward; only local layers are rotated."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `cohere2`."""
    b = source.builder("cohere2")
    windows = source.windows(every=4)
    rope = blocks.Rope(source.rope_table(b), "interleaved") if any(windows) else None
    x = blocks.embed(b)
    for i, window in enumerate(windows):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope if window else None, window=window)
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.layer_norm)
        attended = b.add(x, blocks.attention(b, y, blk, attention))
        x = b.add(attended, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.layer_norm, scale=source.metadata.number("logit_scale", 1.0))


FAMILY = Family("cohere2", ("cohere2",), build)
