"""Qwen 3 with a mixture of experts in every layer."""

from __future__ import annotations

from edgellm.families import mixture, qwen3, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen3moe`."""
    return qwen3.stack(source, "qwen3_moe", mixture.read(source, normalize=True))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 3 MoE checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    if c.get("use_sliding_window") and c.get("sliding_window") is not None:
        out["attention.sliding_window"] = c.integer("sliding_window")
        out["attention.sliding_window_pattern"] = [True] * c.n_layers
    out["expert_count"] = c.integer("num_experts", "num_local_experts")
    out["expert_used_count"] = c.integer("num_experts_per_tok")
    out["expert_feed_forward_length"] = c.integer("moe_intermediate_size")
    # llama.cpp always normalizes here; the key is written where a model does not.
    if not c.flag("norm_topk_prob", False):
        out["expert_weights_norm"] = False
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    dense, step = c.numbers("mlp_only_layers"), c.integer("decoder_sparse_step", default=1)
    n_experts = c.integer("num_experts", "num_local_experts")
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.ATTENTION | standard.QK_NORM | standard.FFN_NORM)
        if i in dense or (i + 1) % step:
            p.layer(blk, layer, standard.GLU)
        else:
            p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"})
            p.experts(blk, f"{layer}.mlp.experts", standard.EXPERTS, n_experts)
    return p


FAMILY = Family(
    build,
    Checkpoint(("qwen3_moe",), metadata, parts),
)
