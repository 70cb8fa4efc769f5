"""Stacks of layers that many families share: norm, attention, norm, dense part or experts."""

from __future__ import annotations

from collections.abc import Callable

from edgellm.families import blocks
from edgellm.families.source import Norm, Source
from edgellm.program import Builder


def sequential(
    source: Source,
    b: Builder,
    x: str,
    attention: Callable[[int], blocks.Attention],
    how: Norm,
    *,
    moe: blocks.Experts | None = None,
    ffn_norm: str = "ffn_norm",
    residual: float = 1.0,
) -> str:
    """Rows after all layers; a layer with a router's tensor has experts, any other a gated dense part.

    attention: of each layer. residual: scale of each part's result.
    """
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.attention(b, blocks.norm(b, x, f"{blk}.attn_norm", how), blk, attention(i))
        x = blocks.add(b, x, y, residual)
        y = blocks.norm(b, x, f"{blk}.{ffn_norm}", how)
        if moe is not None and b.has(f"{blk}.ffn_gate_inp.weight"):
            y = blocks.experts(b, y, blk, moe)
        else:
            y = blocks.glu(b, y, blk, source.n_ff[i])
        x = blocks.add(b, x, y, residual)
    return x
