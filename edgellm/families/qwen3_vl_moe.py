"""Qwen 3 with vision and a mixture of experts, text."""

from __future__ import annotations

from edgellm.families import qwen3_moe, qwen3_vl, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.transforms import Chain, Half, Oriented


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 3 VL MoE checkpoint."""
    return qwen3_moe.metadata(c) | qwen3_vl.vision(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file; published checkpoints stack the experts' matrices transposed."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    dense, step = c.numbers("mlp_only_layers"), c.integer("decoder_sparse_step", default=1)
    n_ff = c.integer("moe_intermediate_size")
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.ATTENTION | standard.QK_NORM | standard.FFN_NORM)
        if i in dense or (i + 1) % step:
            p.layer(blk, layer, standard.GLU)
            continue
        experts = f"{layer}.mlp.experts"
        p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"})
        for name, half in (("gate", Half("first", axis=1)), ("up", Half("second", axis=1))):
            rows = Chain((Oriented(2 * n_ff, c.width), half))
            p.add(f"{blk}.ffn_{name}_exps.weight", f"{experts}.gate_up_proj", make=rows)
        p.add(f"{blk}.ffn_down_exps.weight", f"{experts}.down_proj", make=Oriented(c.width, n_ff))
    return p


_TYPES = ("qwen3_vl_moe", "qwen3_vl_moe_text")
_DEFAULTS = {"norm_topk_prob": True, "rope_theta": 5000000.0}
FAMILY = Family(
    qwen3_moe.build,
    Checkpoint(_TYPES, metadata, parts, defaults=dict.fromkeys(_TYPES, _DEFAULTS)),
)
