"""Mamba 2: state-space layers only (arXiv 2405.21060).

The file stores A already as -exp(A_log)."""

from __future__ import annotations

import math

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import MAX_HEAD, Norm, Source
from edgellm.families.transforms import Chain, NegExp, Reshape
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `mamba2`."""
    mixer = read(source)
    b = source.builder("mamba2")
    x = blocks.embed(b)
    for i in range(source.n_layers):
        y = blocks.norm(b, x, f"blk.{i}.attn_norm", source.rms)
        x = b.add(x, blocks.mamba2(b, y, f"blk.{i}", mixer))
    return blocks.head(source, b, x, source.rms)


def read(source: Source, norm: Norm | None = None) -> blocks.Mamba2:
    """Sizes of the mixers as the metadata has them; norm: that of the file unless given."""
    m = source.metadata
    inner = m.integer("ssm.inner_size")
    return blocks.Mamba2(
        inner=inner,
        n_heads=m.integer("ssm.time_step_rank", maximum=inner),
        n_groups=m.integer("ssm.group_count", maximum=inner),
        d_state=m.integer("ssm.state_size", maximum=MAX_HEAD),
        n_taps=m.integer("ssm.conv_kernel", minimum=2, maximum=64),
        norm=norm or source.rms,
    )


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Mamba 2 checkpoint."""
    c.only("hidden_act", "silu")
    require_free_steps(c)
    return {
        "context_length": 2**20,
        "embedding_length": c.width,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": c.n_layers,
        "ssm.conv_kernel": c.integer("conv_kernel"),
        "ssm.inner_size": _inner(c),
        "ssm.state_size": c.integer("state_size"),
        "ssm.time_step_rank": c.integer("num_heads"),
        "ssm.group_count": c.integer("n_groups"),
    } | standard.rms(c, "layer_norm_epsilon")


def require_free_steps(c: Config) -> None:
    """Raise UnsupportedError if the time steps are bounded."""
    # Later versions of transformers write infinity as an object.
    c.only("time_step_limit", *([0.0, top] for top in (math.inf, {"__float__": "Infinity"})))


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    n_groups = c.integer("n_groups")
    n_conv = _inner(c) + 2 * n_groups * c.integer("state_size")
    p.add("token_embd.weight", "backbone.embeddings.weight")
    p.add("output_norm.weight", "backbone.norm_f.weight")
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    for i in range(c.n_layers):
        blk, mixer = f"blk.{i}", f"backbone.layers.{i}.mixer"
        p.add(f"{blk}.attn_norm.weight", f"backbone.layers.{i}.norm.weight")
        p.layer(blk, mixer, {"ssm_in": "in_proj", "ssm_out": "out_proj"})
        mixer_parts(p, blk, mixer, n_conv, n_groups)
    return p


def mixer_parts(p: Parts, to: str, source: str, n_conv: int, n_groups: int, *, normed: bool = True) -> None:
    """Add a mixer's tensors but its two projections; n_conv: width of the convolution."""
    p.add(f"{to}.ssm_conv1d.weight", f"{source}.conv1d.weight", make=Reshape((n_conv, -1)))
    p.add(f"{to}.ssm_conv1d.bias", f"{source}.conv1d.bias", optional=True)
    p.add(f"{to}.ssm_dt.bias", f"{source}.dt_bias")
    p.add(f"{to}.ssm_a", f"{source}.A_log", make=Chain((NegExp(), Reshape((-1, 1)))))
    p.add(f"{to}.ssm_d", f"{source}.D", make=Reshape((-1, 1)))
    if normed:
        p.add(f"{to}.ssm_norm.weight", f"{source}.norm.weight", make=Reshape((n_groups, -1)))


def _inner(c: Config) -> int:
    """Width of the inner row."""
    return int(c.number("expand", default=2.0) * c.width)


FAMILY = Family(
    build,
    Checkpoint(("mamba2",), metadata, parts),
    f32=(r".*ssm_conv1d\.weight",),
)
