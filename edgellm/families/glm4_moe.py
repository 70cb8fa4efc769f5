"""GLM-4.5 to 4.7: biased projections, partly rotated heads, experts beside a shared one."""

from __future__ import annotations

from edgellm.families import blocks, layers, mixture, nextn, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `glm4moe`."""
    b = source.builder("glm4_moe")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())

    def attention(i: int) -> blocks.Attention:
        normed = b.has(f"blk.{i}.attn_q_norm.weight")
        return blocks.heads(source, i, rope=rope, qk_norm="head" if normed else None, norm=source.rms)

    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        attention,
        source.rms,
        moe=mixture.read(source, normalize=True, gating=2),
        ffn_norm="post_attention_norm",
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a GLM-4 MoE checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c) | mixture.sizes(c, "n_routed_experts", "num_experts_per_tok")
    out["rope.dimension_count"] = _rotated(c)
    out["expert_shared_count"] = c.integer("n_shared_experts", minimum=0)
    out["leading_dense_block_count"] = c.integer("first_k_dense_replace", minimum=0)
    out["expert_gating_func"] = 2
    out["expert_weights_scale"] = c.number("routed_scaling_factor")
    out["expert_weights_norm"] = c.flag("norm_topk_prob", True)
    if c.integer("n_group") > 1:
        out["expert_group_count"] = c.integer("n_group")
        out["expert_group_used_count"] = c.integer("topk_group")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, _rotated(c))
    standard.ends(p, c)
    for i in range(c.n_layers):
        _layer(p, c, i)
    nextn.numbered(p, c, lambda more, i: _layer(more, c, i))
    return p


def _layer(p: Parts, c: Config, i: int) -> None:
    """Add the parts of layer `i`."""
    blk, layer = f"blk.{i}", f"model.layers.{i}"
    names = standard.ATTENTION | {"post_attention_norm": "post_attention_layernorm"}
    if c.flag("use_qk_norm", False):
        names = names | standard.QK_NORM
    p.layer(blk, layer, names)
    if i < c.integer("first_k_dense_replace", minimum=0):
        p.layer(blk, layer, standard.GLU)
        return
    p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"})
    if c.integer("n_shared_experts", minimum=0):
        p.layer(blk, layer, mixture.shared("shared_experts"))
    p.add(f"{blk}.exp_probs_b.bias", f"{layer}.mlp.gate.e_score_correction_bias")
    p.experts(blk, f"{layer}.mlp.experts", standard.EXPERTS, c.integer("n_routed_experts"))


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share(0.5))


_DEFAULTS = {
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 8,
}
FAMILY = Family(
    build,
    Checkpoint(("glm4_moe",), metadata, parts, defaults={"glm4_moe": _DEFAULTS}),
)
