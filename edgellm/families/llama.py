"""Llama 1 to 3, and what shares its file form: Mistral, Mixtral, SmolLM2, TinyLlama.

Query and key rows are permuted in the file so that rotated pairs are neighbours.
"""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `llama`."""
    m = source.metadata
    m.refuse("attention.temperature_scale")
    n_experts, n_used = source.experts
    window = m.integer("attention.sliding_window", 0, minimum=0)
    b = source.builder("llama")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        x = b.add(x, blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope, window=window)))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        if n_experts:
            moe = blocks.Experts(n_experts, n_used, source.n_ff[i], normalize=True)
            x = b.add(x, blocks.experts(b, y, blk, moe))
        else:
            x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("llama", ("llama",), build)
