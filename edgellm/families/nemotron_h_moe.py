"""Nemotron 3 (Nano, Super): Nemotron-H with experts."""

from __future__ import annotations

from edgellm.families import mixture, nemotron_h
from edgellm.families.checkpoint import Checkpoint, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `nemotron_h_moe`."""
    moe = mixture.read(source, normalize=True, gating=2)
    n_latent = source.metadata.integer("moe_latent_size", 0, minimum=0)
    moe = moe._replace(activation="relu2", gated=False, n_latent=n_latent)
    return nemotron_h.stack(source, "nemotron_h_moe", moe)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Nemotron-H checkpoint with experts."""
    out = nemotron_h.metadata(c) | mixture.sizes(c, "n_routed_experts", "num_experts_per_tok")
    out["expert_shared_count"] = c.integer("n_shared_experts", default=1)
    out["expert_shared_feed_forward_length"] = c.integer("moe_shared_expert_intermediate_size")
    out["expert_gating_func"] = 2
    out["expert_weights_norm"] = c.flag("norm_topk_prob", True)
    out["expert_weights_scale"] = c.number("routed_scaling_factor", default=1.0)
    out["expert_group_count"] = c.integer("n_group", default=1)
    out["expert_group_used_count"] = c.integer("topk_group", default=1)
    if c.get("moe_latent_size") is not None:
        out["moe_latent_size"] = c.integer("moe_latent_size")
    return out


FAMILY = Family(
    build,
    Checkpoint((), metadata, nemotron_h.parts, mixture="nemotron_h"),
    f32=(r".*ssm_conv1d\.weight",),
)
