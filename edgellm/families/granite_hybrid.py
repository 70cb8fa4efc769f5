"""Granite 4 with state-space layers: Mamba 2 in most layers, experts or a dense part after each."""

from __future__ import annotations

from edgellm.families import blocks, granite, granite_moe, mamba2, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `granitehybrid`; a layer without key heads is a mixer."""
    m = source.metadata
    residual = m.number("residual_scale", 1.0)
    mixer = mamba2.read(source)
    moe = granite_moe.read(source) if source.experts[0] else None
    b = source.builder("granite_hybrid")
    rope = None
    if m.flag("rope.scaling.finetuned", False) and any(source.n_kv_heads):
        rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = blocks.embed(b, m.number("embedding_scale", 1.0))
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        if source.n_kv_heads[i]:
            y = blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope))
        else:
            y = blocks.mamba2(b, y, blk, mixer)
        x = blocks.add(b, x, y, residual)
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        if moe is not None:
            y = blocks.experts(b, y, blk, moe)
        else:
            y = blocks.glu(b, y, blk, source.n_ff[i])
        x = blocks.add(b, x, y, residual)
    return blocks.head(source, b, x, source.rms, scale=1 / m.number("logit_scale", 1.0))


def architecture(c: Config) -> str | None:
    """Architecture of a model without state-space layers, which is that of an older Granite."""
    if "mamba" in _kinds(c):
        return None
    return "granitemoe" if c.integer("num_local_experts", minimum=0) else "granite"


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Granite 4 checkpoint with state-space layers."""
    mamba2.require_free_steps(c)
    out = granite.metadata(c)
    if c.integer("num_local_experts", minimum=0):
        out |= granite_moe.sizes(c)
    kinds = _kinds(c)
    rotated = c.get("position_embedding_type") == "rope"
    out["attention.head_count_kv"] = [c.n_kv_heads if kind == "attention" else 0 for kind in kinds]
    out["ssm.conv_kernel"] = c.integer("mamba_d_conv")
    out["ssm.inner_size"] = _inner(c)
    out["ssm.state_size"] = c.integer("mamba_d_state")
    out["ssm.time_step_rank"] = c.integer("mamba_n_heads")
    out["ssm.group_count"] = c.integer("mamba_n_groups")
    out["rope.scaling.finetuned"] = rotated
    if not rotated:
        out["context_length"] = 2**20
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    granite.end_parts(p, c)
    n_groups = c.integer("mamba_n_groups")
    n_conv = _inner(c) + 2 * n_groups * c.integer("mamba_d_state")
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i, kind in enumerate(_kinds(c)):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        if kind == "attention":
            p.layer(blk, layer, standard.ATTENTION | standard.FFN_NORM, pairs)
        else:
            p.layer(blk, layer, {"attn_norm": "input_layernorm"} | standard.FFN_NORM)
            p.layer(blk, layer, {"ssm_in": "mamba.in_proj", "ssm_out": "mamba.out_proj"})
            mamba2.mixer_parts(p, blk, f"{layer}.mamba", n_conv, n_groups)
        if c.integer("num_local_experts", minimum=0):
            granite_moe.expert_parts(p, i)
        granite.shared_mlp(p, c, i)
    return p


def _kinds(c: Config) -> list[str]:
    """Kind of each layer, mamba or attention, under the names of older configs."""
    kinds = c.layer_types() or ("mamba",) * c.n_layers
    older = {"linear_attention": "mamba", "full_attention": "attention"}
    return [older.get(kind, kind) for kind in kinds]


def _inner(c: Config) -> int:
    """Width of the inner row."""
    return int(c.number("mamba_expand") * c.width)


_DEFAULTS = granite.MULTIPLIERS | {
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
FAMILY = Family(
    build,
    Checkpoint(
        ("granitemoehybrid",),
        metadata,
        parts,
        defaults={"granitemoehybrid": _DEFAULTS},
        architecture=architecture,
    ),
    f32=(r".*ssm_conv1d\.weight",),
)
