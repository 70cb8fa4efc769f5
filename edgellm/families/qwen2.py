"""Qwen 2 and 2.5: Llama's layer with biased query, key and value projections."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `qwen2`."""
    b = source.builder("qwen2")
    rope = blocks.Rope(source.rope_table(b))
    windows = source.windows()
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        x = b.add(x, blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope, window=windows[i])))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("qwen2", ("qwen2",), build)
