"""EXAONE 4: norms after each part, normalized heads; with local layers, only those are rotated."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `exaone4`."""
    b = source.builder("exaone4")
    windows = source.windows(every=4)
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = blocks.embed(b)
    for i, window in enumerate(windows):
        blk = f"blk.{i}"
        rotated = rope if window or not any(windows) else None
        attention = blocks.heads(source, i, rope=rotated, window=window, qk_norm="head", norm=source.rms)
        y = blocks.attention(b, x, blk, attention)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.glu(b, x, blk, source.n_ff[i])
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("exaone4", ("exaone4",), build)
