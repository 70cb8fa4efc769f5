"""GLM-4 (0414): norms on both sides of each part, half of each head rotated, gate and up in one matrix."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `glm4`."""
    b = source.builder("glm4")
    rope = blocks.Rope(source.rope_table(b), "interleaved")
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        y = blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope))
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        y = blocks.glu(b, y, blk, source.n_ff[i], fused=True)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("glm4", ("glm4",), build)
