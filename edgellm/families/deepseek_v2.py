"""DeepSeek V2 and V3: keys and values from a latent row, experts beside shared ones.

A file holds the latent's projection whole (attn_kv_b) or split (attn_k_b, attn_v_b). If it is split, queries
are projected to the latent, and the cache holds only the latent row and the rotated key.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.families import blocks, mixture, nextn, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import MAX_HEAD, Norm, Source
from edgellm.families.transforms import Chain, GroupRows, Reshape, Transpose
from edgellm.program import Builder, Program
from edgellm.program.rope import yarn_mscale


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `deepseek2`."""
    n_dense = source.metadata.integer("leading_dense_block_count", 0, minimum=0)
    b = source.builder("deepseek_v2")
    latent = _latent(source, b)
    moe = mixture.read(source, normalize=False) if n_dense < source.n_layers else None
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        x = b.add(x, _attention(b, y, blk, latent, source.n_heads[i]))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        if moe is None or i < n_dense:
            x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
        else:
            x = b.add(x, blocks.experts(b, y, blk, moe))
    return blocks.head(source, b, x, source.rms)


class _Latent(NamedTuple):
    """Sizes of latent attention: the latent rows of queries and of keys and values, the parts of a head."""

    q_rank: int
    kv_rank: int
    plain_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    rope: blocks.Rope
    norm: Norm


def _latent(source: Source, b: Builder) -> _Latent:
    m = source.metadata
    head = m.integer("attention.key_length_mla", source.head_dim, maximum=MAX_HEAD)
    rope_dim = source.rope_dims()
    if rope_dim >= head:
        key = m.key("rope.dimension_count")
        raise ModelError(f"metadata {key!r} is {rope_dim}, expected less than a head of {head}")
    stretch = m.number("rope.scaling.factor", 1.0)
    multiplier = m.number("rope.scaling.yarn_log_multiplier", 0.0, minimum=0)
    mscale = 1 + multiplier * math.log(stretch)
    return _Latent(
        q_rank=m.integer("attention.q_lora_rank", 0, minimum=0),
        kv_rank=m.integer("attention.kv_lora_rank", maximum=MAX_HEAD),
        plain_dim=head - rope_dim,
        rope_dim=rope_dim,
        value_dim=m.integer("attention.value_length_mla", source.value_dim, maximum=MAX_HEAD),
        scale=mscale**2 / math.sqrt(head),
        rope=blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors()),
        norm=Norm("rms", m.number("attention.latent_norm_rms_epsilon", source.rms.eps)),
    )


def _attention(b: Builder, x: str, blk: str, a: _Latent, n_heads: int) -> str:
    head = a.plain_dim + a.rope_dim
    if a.q_rank:
        x_q = blocks.norm(b, blocks.linear(b, x, f"{blk}.attn_q_a", a.q_rank), f"{blk}.attn_q_a_norm", a.norm)
        q = blocks.linear(b, x_q, f"{blk}.attn_q_b", n_heads * head)
    else:
        q = blocks.linear(b, x, f"{blk}.attn_q", n_heads * head)
    q_plain = b.slice(q, 0, a.plain_dim, groups=n_heads)
    q_rope = blocks.rotate(b, b.slice(q, a.plain_dim, a.rope_dim, groups=n_heads), n_heads, a.rope)
    row = blocks.linear(b, x, f"{blk}.attn_kv_a_mqa", a.kv_rank + a.rope_dim)
    latent = blocks.norm(b, b.slice(row, 0, a.kv_rank), f"{blk}.attn_kv_a_norm", a.norm)
    k_rope = blocks.rotate(b, b.slice(row, a.kv_rank, a.rope_dim), 1, a.rope)
    if b.has(f"{blk}.attn_k_b.weight"):
        q_latent = b.linear_groups(q_plain, f"{blk}.attn_k_b.weight", a.kv_rank, groups=n_heads)
        out = b.attention(
            b.concat(q_latent, q_rope, groups=n_heads),
            b.concat(latent, k_rope),
            latent,
            cache=b.cache(1, a.kv_rank + a.rope_dim, a.kv_rank),
            n_heads=n_heads,
            scale=a.scale,
        )
        out = b.linear_groups(out, f"{blk}.attn_v_b.weight", a.value_dim, groups=n_heads)
    else:
        kv = blocks.linear(b, latent, f"{blk}.attn_kv_b", n_heads * (a.plain_dim + a.value_dim))
        k_plain = b.slice(kv, 0, a.plain_dim, groups=n_heads)
        out = b.attention(
            b.concat(q_plain, q_rope, groups=n_heads),
            b.concat(k_plain, k_rope, groups=n_heads, repeat_b=True),
            b.slice(kv, a.plain_dim, a.value_dim, groups=n_heads),
            cache=b.cache(n_heads, head, a.value_dim),
            n_heads=n_heads,
            scale=a.scale,
        )
    return blocks.linear(b, out, f"{blk}.attn_output", b.width)


_LATENT_EPS = 1e-6
_LATENT = {
    "attn_norm": "input_layernorm",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_output": "self_attn.o_proj",
}
_FULL_Q = {"attn_q": "self_attn.q_proj"}
_LATENT_Q = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a DeepSeek V2 or V3 checkpoint."""
    c.only("hidden_act", "silu")
    c.only("rope_interleave", True)
    plain, rotated = c.integer("qk_nope_head_dim"), c.integer("qk_rope_head_dim")
    rank, n_experts = c.integer("kv_lora_rank"), c.integer("n_routed_experts")
    v3 = c.model_type != "deepseek_v2"
    if not v3:
        # DeepSeek's code normalizes, transformers' does not. No published model sets it.
        c.only("norm_topk_prob", False)
    out = standard.base(c)
    out["attention.head_count_kv"] = 1
    out["leading_dense_block_count"] = _n_dense(c)
    out["vocab_size"] = c.integer("vocab_size")
    # No config changes the epsilon of the latent rows' norms.
    if c.number("rms_norm_eps") != _LATENT_EPS:
        out["attention.latent_norm_rms_epsilon"] = _LATENT_EPS
    if c.get("q_lora_rank") is not None:
        out["attention.q_lora_rank"] = c.integer("q_lora_rank")
    out["attention.kv_lora_rank"] = rank
    out["attention.key_length"] = rank + rotated
    out["attention.value_length"] = rank
    out["attention.key_length_mla"] = plain + rotated
    out["attention.value_length_mla"] = c.integer("v_head_dim")
    out["rope.dimension_count"] = rotated
    out["expert_feed_forward_length"] = c.integer("moe_intermediate_size")
    out["expert_count"] = n_experts
    out["expert_used_count"] = c.integer("num_experts_per_tok")
    out["expert_shared_count"] = c.integer("n_shared_experts", default=0, minimum=0)
    out["expert_weights_scale"] = c.number("routed_scaling_factor", default=1.0)
    out["expert_weights_norm"] = c.flag("norm_topk_prob", v3)
    out["expert_gating_func"] = 2 if v3 else 1
    if v3 or c.get("topk_method") == "group_limited_greedy":
        out["expert_group_count"] = c.integer("n_group", default=1)
        out["expert_group_used_count"] = c.integer("topk_group", default=1)
    return out | _yarn(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, c.integer("qk_rope_head_dim"))
    standard.ends(p, c)
    for i in range(c.n_layers):
        _layer(p, c, i)
    nextn.numbered(p, c, lambda more, i: _layer(more, c, i))
    return p


def _layer(p: Parts, c: Config, i: int) -> None:
    """Add the parts of layer `i`."""
    blk, layer = f"blk.{i}", f"model.layers.{i}"
    plain, value, rank = (c.integer(key) for key in ("qk_nope_head_dim", "v_head_dim", "kv_lora_rank"))
    p.layer(
        blk, layer, _LATENT | (_FULL_Q if c.get("q_lora_rank") is None else _LATENT_Q) | standard.FFN_NORM
    )
    kv = f"{layer}.self_attn.kv_b_proj.weight"
    split = Reshape((c.n_heads, plain, rank))
    keys = Chain((GroupRows(c.n_heads, 0, plain), split, Transpose()))
    p.add(f"{blk}.attn_k_b.weight", kv, make=keys)
    values = Chain((GroupRows(c.n_heads, plain, value), Reshape((c.n_heads, value, rank))))
    p.add(f"{blk}.attn_v_b.weight", kv, make=values)
    if i < _n_dense(c):
        p.layer(blk, layer, standard.GLU)
        return
    p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"})
    if c.integer("n_shared_experts", default=0, minimum=0):
        p.layer(blk, layer, mixture.shared("shared_experts"))
    bias = f"{layer}.mlp.gate.e_score_correction_bias"
    p.add(f"{blk}.exp_probs_b.bias", bias, optional=c.model_type == "deepseek_v2")
    p.experts(blk, f"{layer}.mlp.experts", standard.EXPERTS, c.integer("n_routed_experts"))


def _n_dense(c: Config) -> int:
    """Number of layers without experts, which come first."""
    kinds = c.get("mlp_layer_types")
    if not isinstance(kinds, list):
        return c.integer("first_k_dense_replace", default=0, minimum=0)
    n_dense = kinds[: c.n_layers].count("dense")
    if len(kinds) < c.n_layers or "dense" in kinds[n_dense : c.n_layers]:
        raise UnsupportedError(
            f"config.json: 'mlp_layer_types' is {show(kinds)}, supported: dense layers first"
        )
    return n_dense


def _yarn(c: Config) -> dict[str, Value]:
    """YaRN of this family: mscale_all_dim scales attention, mscale over it the rotation."""
    rope = c.rope()
    every = rope.number("mscale_all_dim", 0.0)
    if rope.kind != "yarn" or not every:
        return {}
    factor = rope.number("factor")
    ratio = yarn_mscale(factor, rope.number("mscale", every)) / yarn_mscale(factor, every)
    return {
        "rope.scaling.yarn_log_multiplier": 0.1 * every,
        "rope.scaling.attn_factor": ratio,
    }


_DEFAULTS: dict[str, dict[str, Value]] = {
    "deepseek_v2": {"n_shared_experts": 2},
    "deepseek_v3": {
        "first_k_dense_replace": 3,
        "n_shared_experts": 1,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
    },
    "glm4_moe_lite": {
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "routed_scaling_factor": 1.8,
        "n_group": 1,
        "topk_group": 1,
    },
}
FAMILY = Family(
    build,
    Checkpoint(("deepseek_v2", "deepseek_v3", "glm4_moe_lite"), metadata, parts, defaults=_DEFAULTS),
)
