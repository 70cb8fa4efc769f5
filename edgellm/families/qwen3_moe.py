"""Qwen 3 with a mixture of experts in every layer."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `qwen3moe`."""
    m = source.metadata
    n_experts, n_used = source.experts
    moe = blocks.Experts(
        n_experts,
        n_used,
        m.integer("expert_feed_forward_length"),
        normalize=m.flag("expert_weights_norm", True),
        factor=m.number("expert_weights_scale", 1.0),
    )
    b = source.builder("qwen3_moe")
    rope = blocks.Rope(source.rope_table(b))
    windows = source.windows()
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, window=windows[i], qk_norm="head", norm=source.rms)
        x = b.add(x, blocks.attention(b, blocks.norm(b, x, f"{blk}.attn_norm", source.rms), blk, attention))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        if b.has(f"{blk}.ffn_gate_inp.weight"):
            x = b.add(x, blocks.experts(b, y, blk, moe))
        else:
            x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("qwen3_moe", ("qwen3moe",), build)
