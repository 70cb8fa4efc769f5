"""Granite 3 with a mixture of experts, beside a shared part or alone."""

from __future__ import annotations

from edgellm.families import blocks, granite, mixture
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Half
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `granitemoe`."""
    return granite.stack(source, "granite_moe", read(source))


def read(source: Source) -> blocks.Experts:
    """Experts of the metadata; a softmax over the chosen ones weighs them."""
    moe = mixture.read(source, normalize=False, n_ff=source.n_ff[0])
    return moe._replace(gating="softmax_chosen")


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Granite MoE checkpoint."""
    return granite.metadata(c) | sizes(c)


def sizes(c: Config) -> dict[str, Value]:
    """Metadata of the experts."""
    out: dict[str, Value] = {
        "expert_count": c.integer("num_local_experts"),
        "expert_used_count": c.integer("num_experts_per_tok"),
    }
    if c.get("shared_intermediate_size"):
        out["expert_shared_feed_forward_length"] = c.integer("shared_intermediate_size")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    granite.end_parts(p, c)
    for i in range(c.n_layers):
        granite.attention_parts(p, c, i)
        expert_parts(p, i)
        if c.get("shared_intermediate_size"):
            granite.shared_mlp(p, c, i)
    return p


def expert_parts(p: Parts, i: int) -> None:
    """Add the router and the experts of layer `i`."""
    blk, source = f"blk.{i}", f"model.layers.{i}.block_sparse_moe"
    p.add(f"{blk}.ffn_gate_inp.weight", f"{source}.router.layer.weight")
    for name, half in (("gate", Half("first", axis=1)), ("up", Half("second", axis=1))):
        p.add(f"{blk}.ffn_{name}_exps.weight", f"{source}.input_linear.weight", make=half)
    p.add(f"{blk}.ffn_down_exps.weight", f"{source}.output_linear.weight")


_DEFAULTS = granite.MULTIPLIERS | {"num_local_experts": 8, "num_experts_per_tok": 2}
FAMILY = Family(
    build,
    Checkpoint(
        ("granitemoe", "granitemoeshared"),
        metadata,
        parts,
        defaults=dict.fromkeys(("granitemoe", "granitemoeshared"), _DEFAULTS),
    ),
)
