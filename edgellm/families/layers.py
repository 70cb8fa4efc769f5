"""Stacks of layers that many families share: norm, attention, norm, dense part or experts."""

from __future__ import annotations

from collections.abc import Callable

from edgellm.families import blocks
from edgellm.families.source import Norm, Source
from edgellm.program import Builder

# Dense part of a layer: builder, rows, prefix of the tensors' names, hidden width.
Dense = Callable[[Builder, str, str, int], str]


def sequential(
    source: Source,
    b: Builder,
    x: str,
    attention: Callable[[int], blocks.Attention],
    how: Norm,
    *,
    moe: blocks.Experts | None = None,
    dense: Dense = blocks.glu,
    ffn_norm: str = "ffn_norm",
    residual: float = 1.0,
) -> str:
    """Rows after all layers; a layer with a router's tensor has experts, any other a dense part.

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
            y = dense(b, y, blk, source.n_ff[i])
        x = blocks.add(b, x, y, residual)
    return x


def parallel(
    source: Source,
    b: Builder,
    x: str,
    attention: Callable[[int], blocks.Attention],
    how: Norm,
    *,
    dense: Dense = blocks.glu,
    attn_norm: str = "attn_norm",
    ffn_norm: str | None = None,
) -> str:
    """Rows after layers whose attention and dense part read the same row.

    attention: of each layer. ffn_norm: norm of the dense part; None: attention's norm is for both.
    """
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.{attn_norm}", how)
        attended = b.add(x, blocks.attention(b, y, blk, attention(i)))
        if ffn_norm is not None:
            y = blocks.norm(b, x, f"{blk}.{ffn_norm}", how)
        x = b.add(attended, dense(b, y, blk, source.n_ff[i]))
    return x
