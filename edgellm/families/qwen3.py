"""Qwen 3: Llama's layer with normalized query and key heads."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `qwen3`."""
    b = source.builder("qwen3")
    rope = blocks.Rope(source.rope_table(b))
    windows = source.windows()
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, window=windows[i], qk_norm="head", norm=source.rms)
        x = b.add(x, blocks.attention(b, blocks.norm(b, x, f"{blk}.attn_norm", source.rms), blk, attention))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("qwen3", ("qwen3",), build)
