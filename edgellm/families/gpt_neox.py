"""GPT-NeoX and Pythia: attention and feed-forward side by side over partly rotated heads."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `gptneox`."""
    parallel = source.metadata.flag("use_parallel_residual", True)
    b = source.builder("gpt_neox")
    rope = blocks.Rope(source.rope_table(b))
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.layer_norm)
        attended = b.add(x, blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope)))
        y = blocks.norm(b, x if parallel else attended, f"{blk}.ffn_norm", source.layer_norm)
        x = b.add(attended, blocks.mlp(b, y, blk, source.n_ff[i], "gelu"))
    return blocks.head(source, b, x, source.layer_norm)


FAMILY = Family("gpt_neox", ("gptneox",), build)
