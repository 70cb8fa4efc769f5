"""Mamba 2: state-space layers only (arXiv 2405.21060).

The file stores A already as -exp(A_log)."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.family import Family
from edgellm.families.source import MAX_HEAD, Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """The program of a GGUF file of architecture `mamba2`."""
    m = source.metadata
    inner = m.integer("ssm.inner_size")
    mixer = blocks.Mamba2(
        inner=inner,
        n_heads=m.integer("ssm.time_step_rank", maximum=inner),
        n_groups=m.integer("ssm.group_count", maximum=inner),
        d_state=m.integer("ssm.state_size", maximum=MAX_HEAD),
        n_taps=m.integer("ssm.conv_kernel", minimum=2, maximum=64),
        norm=source.rms,
    )
    b = source.builder("mamba2")
    x = blocks.embed(b)
    for i in range(source.n_layers):
        y = blocks.norm(b, x, f"blk.{i}.attn_norm", source.rms)
        x = b.add(x, blocks.mamba2(b, y, f"blk.{i}", mixer))
    return blocks.head(source, b, x, source.rms)


FAMILY = Family("mamba2", ("mamba2",), build)
