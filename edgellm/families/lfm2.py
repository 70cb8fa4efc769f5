"""LFM2: gated short convolutions, with attention over normalized heads in some layers."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Builder, Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `lfm2`; a layer without key heads is a convolution."""
    n_taps = source.metadata.integer("shortconv.l_cache", minimum=2, maximum=64)
    b = source.builder("lfm2")
    rope = blocks.Rope(source.rope_table(b)) if any(source.n_kv_heads) else None
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        if source.n_kv_heads[i]:
            attention = blocks.heads(source, i, rope=rope, qk_norm="head", norm=source.rms)
            x = b.add(x, blocks.attention(b, y, blk, attention))
        else:
            x = b.add(x, _short_conv(b, y, f"{blk}.shortconv", n_taps))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms, part="token_embd_norm")


def _short_conv(b: Builder, x: str, part: str, n_taps: int) -> str:
    """Rows of B, C and x in one matrix: out(C * conv(B * x))."""
    rows = blocks.linear(b, x, f"{part}.in_proj", 3 * b.width)
    before, after, y = (b.slice(rows, j * b.width, b.width) for j in range(3))
    bias = f"{part}.conv.bias" if b.has(f"{part}.conv.bias") else None
    y = b.short_conv(b.mul(before, y), f"{part}.conv.weight", n_taps, bias=bias)
    return blocks.linear(b, b.mul(after, y), f"{part}.out_proj", b.width)


FAMILY = Family("lfm2", ("lfm2",), build)
