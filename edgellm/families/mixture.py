"""Mixtures of experts: their metadata, and the names of shared experts."""

from __future__ import annotations

from edgellm.families import standard
from edgellm.families.blocks import Experts
from edgellm.families.checkpoint import Parts, Value
from edgellm.families.config import Config
from edgellm.families.source import Source
from edgellm.families.transforms import Reshape

_MAX_SHARED = 1024


def read(source: Source, *, normalize: bool, gating: int = 1, n_ff: int | None = None) -> Experts:
    """Experts as the metadata describes them; `normalize`, `gating` and `n_ff` count where it is silent.

    gating: 1 for softmax, 2 for sigmoid.
    """
    m = source.metadata
    n_experts, n_used = source.experts
    n_ff = m.integer("expert_feed_forward_length", n_ff)
    sigmoid = m.integer("expert_gating_func", gating, maximum=2) == 2
    n_groups = m.integer("expert_group_count", 1, maximum=max(n_experts, 1))
    n_shared = m.integer("expert_shared_count", 0, minimum=0, maximum=_MAX_SHARED)
    return Experts(
        n_experts,
        n_used,
        n_ff,
        gating="sigmoid" if sigmoid else "softmax",
        normalize=m.flag("expert_weights_norm", normalize),
        factor=m.number("expert_weights_scale", 1.0),
        n_groups=n_groups,
        n_groups_used=m.integer("expert_group_used_count", n_groups, maximum=n_groups),
        group_score="top2" if sigmoid else "max",
        n_ff_shared=m.integer("expert_shared_feed_forward_length", n_ff * n_shared, minimum=0),
    )


def sizes(config: Config, count: str, used: str, n_ff: str = "moe_intermediate_size") -> dict[str, Value]:
    """Number of experts, of those used, and their hidden width, by the names of the config's keys."""
    return {
        "expert_count": config.integer(count, "num_local_experts"),
        "expert_used_count": config.integer(used),
        "expert_feed_forward_length": config.integer(n_ff),
    }


def shared(part: str) -> dict[str, str]:
    """Names of the matrices of the experts that run for every token."""
    return {f"ffn_{name}_shexp": f"mlp.{part}.{name}_proj" for name in ("gate", "up", "down")}


def gated_shared_parts(p: Parts, c: Config, blk: str, layer: str) -> None:
    """Add the router, the experts, and a shared one with its gate, under the names of Qwen's checkpoints."""
    p.layer(blk, layer, {"ffn_gate_inp": "mlp.gate"} | shared("shared_expert"))
    gate = f"{layer}.mlp.shared_expert_gate.weight"
    p.add(f"{blk}.ffn_gate_inp_shexp.weight", gate, make=Reshape((-1,)))
    p.experts(blk, f"{layer}.mlp.experts", standard.EXPERTS, c.integer("num_experts"))
