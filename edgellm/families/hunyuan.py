"""Hunyuan, dense: Llama's layer with query and key heads normalized after their rotation."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `hunyuan-dense`."""
    b = source.builder("hunyuan")
    rope = blocks.Rope(source.rope_table(b))
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, qk_norm="head", norm=source.rms, norm_last=True)
        x = b.add(x, blocks.attention(b, blocks.norm(b, x, f"{blk}.attn_norm", source.rms), blk, attention))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("hunyuan_v1_dense", ("hunyuan-dense",), build)
