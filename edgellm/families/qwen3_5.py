"""Qwen 3.5, text: three gated delta layers to one of gated attention, over dense feed-forward parts.

The file orders value heads so that head h belongs to key head h % n_key_heads. It stores norm weights with 1
added, except for the norms inside delta layers.
"""

from __future__ import annotations

from collections.abc import Callable

from edgellm.errors import ModelError
from edgellm.families import blocks, nextn, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import MAX_HEAD, Source
from edgellm.families.transforms import (
    AddOne,
    Chain,
    Concat,
    Copy,
    GroupRows,
    NegExp,
    Reshape,
    Tile,
    Transform,
)
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen35`."""
    return stack(source, "qwen3_5", tiled=True)


def stack(source: Source, family: str, *, tiled: bool, experts: blocks.Experts | None = None) -> Program:
    """Layers that Qwen 3.5 and Qwen3-Next share."""
    delta = _delta_net(source, tiled)
    recurrent = _recurrent(source)
    b = source.builder(family)
    rope = None if all(recurrent) else blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        if recurrent[i]:
            y = blocks.delta_net(b, y, blk, delta)
        else:
            attention = blocks.heads(source, i, rope=rope, qk_norm="head", norm=source.rms, gated=True)
            y = blocks.attention(b, y, blk, attention)
        x = b.add(x, y)
        y = blocks.norm(b, x, f"{blk}.post_attention_norm", source.rms)
        if experts and b.has(f"{blk}.ffn_gate_inp.weight"):
            x = b.add(x, blocks.experts(b, y, blk, experts))
        else:
            x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


def _delta_net(source: Source, tiled: bool) -> blocks.DeltaNet:
    m = source.metadata
    n_heads = m.integer("ssm.time_step_rank", maximum=MAX_HEAD)
    inner = m.integer("ssm.inner_size")
    if inner % n_heads:
        key = m.key("ssm.inner_size")
        raise ModelError(f"metadata {key!r} is {inner}, expected a multiple of {n_heads} heads")
    return blocks.DeltaNet(
        n_heads=n_heads,
        n_key_heads=m.integer("ssm.group_count", maximum=n_heads),
        key_dim=m.integer("ssm.state_size", maximum=MAX_HEAD),
        value_dim=inner // n_heads,
        n_taps=m.integer("ssm.conv_kernel", minimum=2, maximum=64),
        tiled=tiled,
        norm=source.rms,
    )


def _recurrent(source: Source) -> tuple[bool, ...]:
    """True for each delta layer: as the file lists them, or all but each n-th."""
    m = source.metadata
    if m.is_list("attention.recurrent_layers"):
        return m.flags("attention.recurrent_layers", source.n_layers)
    every = m.integer("full_attention_interval", 4)
    return tuple((i + 1) % every != 0 for i in range(source.n_layers))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 3.5 checkpoint."""
    return delta_metadata(c) | standard.interleaved_sections(c, (11, 11, 10), rotated(c))


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, rotated(c))
    standard.ends(p, c, norm=AddOne())
    layer_parts(p, c, lambda to, i, layer: to.layer(f"blk.{i}", layer, standard.GLU))
    return p


def layer_parts(p: Parts, c: Config, feed_forward: Callable[[Parts, int, str], None]) -> None:
    """Add all layers, and blocks of multi-token prediction. feed_forward: adds the part after the mixer."""

    def add(to: Parts, i: int, layer: str) -> None:
        _mixer_parts(to, c, i, layer)
        feed_forward(to, i, layer)

    for i in range(c.n_layers):
        add(p, i, f"model.layers.{i}")
    nextn.separate(p, c, add)


def delta_metadata(c: Config) -> dict[str, Value]:
    """Metadata that Qwen 3.5 and Qwen3-Next share."""
    c.only("hidden_act", "silu")
    n_value_heads = c.integer("linear_num_value_heads")
    out = standard.base(c)
    out["ssm.conv_kernel"] = c.integer("linear_conv_kernel_dim")
    out["ssm.state_size"] = c.integer("linear_key_head_dim")
    out["ssm.group_count"] = c.integer("linear_num_key_heads")
    out["ssm.time_step_rank"] = n_value_heads
    out["ssm.inner_size"] = c.integer("linear_value_head_dim") * n_value_heads
    out["rope.dimension_count"] = rotated(c)
    recurrent = _linear(c)
    every = c.integer("full_attention_interval", default=4)
    out["full_attention_interval"] = every
    if recurrent != [(i + 1) % every != 0 for i in range(c.n_layers)]:
        out["attention.recurrent_layers"] = recurrent
    return out


def rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share(0.25))


def _mixer_parts(p: Parts, c: Config, i: int, layer: str) -> None:
    """Add the norms and the attention or delta part of layer `i`; one past the model's own has attention."""
    blk = f"blk.{i}"
    norms = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}
    p.layer(blk, layer, norms, dict.fromkeys(norms, AddOne()))
    if i >= c.n_layers or not _linear(c)[i]:
        names = {key: hf for key, hf in standard.ATTENTION.items() if key != "attn_norm"}
        p.layer(blk, layer, names | standard.QK_NORM, dict.fromkeys(standard.QK_NORM, AddOne()))
        return
    n_keys, n_values = c.integer("linear_num_key_heads"), c.integer("linear_num_value_heads")
    per_key = n_values // n_keys
    key_dim, value_dim = c.integer("linear_key_head_dim"), c.integer("linear_value_head_dim")
    tiled = c.model_type != "qwen3_next"

    def order(size: int, axis: int = 0) -> Transform:
        return Tile(n_keys, per_key, size, axis) if tiled else Copy()

    source = f"{layer}.linear_attn"
    n_conv = 2 * n_keys * key_dim + n_values * value_dim
    conv = Chain((Reshape((n_conv, -1)), order(value_dim)))
    p.add(f"{blk}.ssm_conv1d.weight", f"{source}.conv1d.weight", make=conv)
    p.add(f"{blk}.ssm_dt.bias", f"{source}.dt_bias", make=order(1))
    p.add(f"{blk}.ssm_a", f"{source}.A_log", make=Chain((NegExp(), order(1))))
    p.add(f"{blk}.ssm_norm.weight", f"{source}.norm.weight")
    p.add(f"{blk}.ssm_out.weight", f"{source}.out_proj.weight", make=order(value_dim, 1))
    if tiled:
        p.add(f"{blk}.attn_qkv.weight", f"{source}.in_proj_qkv.weight", make=order(value_dim))
        p.add(f"{blk}.attn_gate.weight", f"{source}.in_proj_z.weight", make=order(value_dim))
        p.add(f"{blk}.ssm_beta.weight", f"{source}.in_proj_b.weight", make=order(1))
        p.add(f"{blk}.ssm_alpha.weight", f"{source}.in_proj_a.weight", make=order(1))
        return
    # One matrix holds query, key, value and gate rows of each key head in turn.
    value = per_key * value_dim
    starts = ((0, key_dim), (key_dim, key_dim), (2 * key_dim, value))
    rows = Concat(tuple(GroupRows(n_keys, start, size) for start, size in starts))
    both = f"{source}.in_proj_qkvz.weight"
    p.add(f"{blk}.attn_qkv.weight", both, make=rows)
    p.add(f"{blk}.attn_gate.weight", both, make=GroupRows(n_keys, 2 * key_dim + value, value))
    p.add(f"{blk}.ssm_ba.weight", f"{source}.in_proj_ba.weight")


def _linear(c: Config) -> list[bool]:
    """True for each delta layer."""
    types = c.layer_types()
    if types is not None:
        return [name == "linear_attention" for name in types]
    every = c.integer("full_attention_interval", default=4)
    return [(i + 1) % every != 0 for i in range(c.n_layers)]


_TYPES = ("qwen3_5", "qwen3_5_text")
FAMILY = Family(
    build,
    Checkpoint(_TYPES, metadata, parts, defaults={name: {"head_dim": 256} for name in _TYPES}),
    f32=(r".*ssm_conv1d\.weight",),
)
