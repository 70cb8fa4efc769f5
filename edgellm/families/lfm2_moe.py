"""LFM2 with a mixture of experts after its first layers."""

from __future__ import annotations

from edgellm.families import lfm2, mixture
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `lfm2moe`."""
    return lfm2.stack(source, "lfm2_moe", mixture.read(source, normalize=True, gating=2))


_EXPERTS = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a LFM2 MoE checkpoint."""
    out = lfm2.metadata(c) | mixture.sizes(c, "num_experts", "num_experts_per_tok")
    out["leading_dense_block_count"] = c.integer("num_dense_layers", minimum=0)
    out["expert_gating_func"] = 2
    # llama.cpp always normalizes and never scales; the keys are written where a model differs.
    if not c.flag("norm_topk_prob", True):
        out["expert_weights_norm"] = False
    if c.number("routed_scaling_factor", default=1.0) != 1.0:
        out["expert_weights_scale"] = c.number("routed_scaling_factor")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    lfm2.end_parts(p, c)
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        lfm2.mixer_parts(p, c, i)
        if i < c.integer("num_dense_layers", minimum=0):
            p.layer(blk, layer, lfm2.DENSE)
            continue
        p.layer(blk, f"{layer}.feed_forward", {"ffn_gate_inp": "gate"})
        if c.flag("use_expert_bias", True):
            p.add(f"{blk}.exp_probs_b.bias", f"{layer}.feed_forward.expert_bias")
        p.experts(blk, f"{layer}.feed_forward.experts", _EXPERTS, c.integer("num_experts"))
    return p


_DEFAULTS = {"rope_theta": 1000000.0, "num_dense_layers": 2, "tie_word_embeddings": True}
FAMILY = Family(
    build,
    Checkpoint(("lfm2_moe",), metadata, parts, defaults={"lfm2_moe": _DEFAULTS}),
    f32=(r".*shortconv\.conv\.weight",),
)
