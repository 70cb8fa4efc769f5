"""OLMo 2: norms after attention and feed-forward, whole query and key rows normalized."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `olmo2`."""
    b = source.builder("olmo2")
    rope = blocks.Rope(source.rope_table(b))
    windows = source.windows(every=4)
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, window=windows[i], qk_norm="row", norm=source.rms)
        y = blocks.attention(b, x, blk, attention)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.glu(b, x, blk, source.n_ff[i])
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("olmo2", ("olmo2",), build)
