"""GPT-2: learned positions, layer norm, one matrix for query, key and value, a plain GELU part."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `gpt2`."""
    b = source.builder("gpt2")
    positions = b.embed("position_embd.weight", source.n_ctx_train, source.width, source="position")
    x = b.add(blocks.embed(b), positions)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.layer_norm)
        x = b.add(x, blocks.attention(b, y, blk, blocks.heads(source, i, rope=None)))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.layer_norm)
        x = b.add(x, blocks.mlp(b, y, blk, source.n_ff[i], "gelu_tanh"))
    return blocks.head(source, b, x, source.layer_norm)


FAMILY = Family("gpt2", ("gpt2",), build)
