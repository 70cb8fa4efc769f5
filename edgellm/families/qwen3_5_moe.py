"""Qwen 3.5 and 3.6 with a mixture of experts, text: Qwen 3.5's layers, experts beside a gated shared one."""

from __future__ import annotations

from edgellm.families import mixture, qwen3_5, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import AddOne, Reshape
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen35moe`."""
    return qwen3_5.stack(source, "qwen3_5_moe", tiled=True, experts=mixture.read(source, normalize=True))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 3.5 MoE checkpoint."""
    out = qwen3_5.metadata(c)
    out |= mixture.sizes(c, "num_experts", "num_experts_per_tok")
    out["expert_shared_feed_forward_length"] = c.integer("shared_expert_intermediate_size")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, qwen3_5.rotated(c))
    standard.ends(p, c, norm=AddOne())
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        qwen3_5.mixer_parts(p, c, i)
        p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"} | mixture.shared("shared_expert"))
        gate = f"{layer}.mlp.shared_expert_gate.weight"
        p.add(f"{blk}.ffn_gate_inp_shexp.weight", gate, make=Reshape((-1,)))
        p.experts(blk, f"{layer}.mlp.experts", standard.EXPERTS, c.integer("num_experts"))
    return p


_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
FAMILY = Family(
    build,
    Checkpoint(_TYPES, metadata, parts, defaults={name: {"head_dim": 256} for name in _TYPES}),
    f32=(r".*ssm_conv1d\.weight",),
)
