"""ERNIE 4.5 with a mixture of experts beside shared ones."""

from __future__ import annotations

from edgellm.families import blocks, layers, mixture, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Reshape
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `ernie4_5-moe`."""
    b = source.builder("ernie4_5_moe")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    moe = mixture.read(source, normalize=True)
    x = layers.sequential(
        source, b, blocks.embed(b), lambda i: blocks.heads(source, i, rope=rope), source.rms, moe=moe
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an ERNIE 4.5 MoE checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c) | mixture.sizes(c, "moe_num_experts", "moe_k")
    out["interleave_moe_layer_step"] = c.integer("moe_layer_interval", default=1)
    out["leading_dense_block_count"] = c.integer("moe_layer_start_index", default=1, minimum=0)
    n_shared = c.integer("moe_num_shared_experts", minimum=0)
    out["expert_shared_count"] = n_shared
    out["expert_shared_feed_forward_length"] = n_shared * c.integer("moe_intermediate_size")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    step = c.integer("moe_layer_interval", default=1)
    first = c.integer("moe_layer_start_index", default=1, minimum=0)
    last = c.integer("moe_layer_end_index", default=-1, minimum=-1)
    last = c.n_layers - 1 if last == -1 else last
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.ATTENTION | standard.FFN_NORM)
        if (i + 1) % step or not first <= i <= last:
            p.layer(blk, layer, standard.GLU)
            continue
        p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"})
        if c.integer("moe_num_shared_experts", minimum=0):
            p.layer(blk, layer, mixture.shared("shared_experts"))
        for root in ("mlp.moe_statics", "mlp.gate.moe_statics"):
            bias = f"{layer}.{root}.e_score_correction_bias"
            p.add(f"{blk}.exp_probs_b.bias", bias, make=Reshape((-1,)), optional=True)
        p.experts(blk, f"{layer}.mlp.experts", standard.EXPERTS, c.integer("moe_num_experts"))
    return p


_DEFAULTS = {
    "rope_theta": 500000.0,
    "moe_k": 6,
    "moe_num_experts": 64,
    "moe_num_shared_experts": 2,
    "moe_intermediate_size": 1536,
    "tie_word_embeddings": True,
}
FAMILY = Family(
    build,
    Checkpoint(
        ("ernie4_5_moe",),
        metadata,
        parts,
        ignored=(r"model\.mtp_.*",),
        defaults={"ernie4_5_moe": _DEFAULTS},
    ),
)
