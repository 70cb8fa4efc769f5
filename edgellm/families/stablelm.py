"""StableLM 2: layer norm, partly rotated heads, optional side-by-side residual and head norms."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `stablelm`."""
    parallel = source.metadata.flag("use_parallel_residual", False)
    b = source.builder("stablelm")
    rope = blocks.Rope(source.rope_table(b))
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        normed = b.has(f"{blk}.attn_q_norm.weight")
        attention = blocks.heads(
            source, i, rope=rope, qk_norm="heads" if normed else None, norm=source.layer_norm
        )
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.layer_norm)
        x = b.add(x, blocks.attention(b, y, blk, attention))
        if not parallel:
            y = blocks.norm(b, x, f"{blk}.ffn_norm", source.layer_norm)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.layer_norm)


FAMILY = Family("stablelm", ("stablelm",), build)
