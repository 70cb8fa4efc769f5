"""StarCoder 2: layer norm, rotated grouped-query attention, a plain GELU part, biases throughout."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `starcoder2`."""
    window = source.metadata.integer("attention.sliding_window", 0, minimum=0)
    b = source.builder("starcoder2")
    rope = blocks.Rope(source.rope_table(b))
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.layer_norm)
        x = b.add(x, blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope, window=window)))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.layer_norm)
        x = b.add(x, blocks.mlp(b, y, blk, source.n_ff[i], "gelu_tanh"))
    return blocks.head(source, b, x, source.layer_norm)


FAMILY = Family("starcoder2", ("starcoder2",), build)
