"""Hunyuan with a mixture of experts beside a shared one (A13B)."""

from __future__ import annotations

from edgellm.errors import UnsupportedError, show
from edgellm.families import hunyuan, mixture, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `hunyuan-moe`."""
    return hunyuan.stack(source, "hunyuan_moe", mixture.read(source, normalize=True))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Hunyuan MoE checkpoint."""
    out = hunyuan.metadata(c)
    out["expert_count"] = _one(c, "num_experts")
    out["expert_used_count"] = _one(c, "moe_topk")
    out["expert_shared_count"] = _one(c, "num_shared_expert", default=1)
    out["expert_feed_forward_length"] = _one(
        c, "moe_intermediate_size", default=c.integer("intermediate_size")
    )
    out["expert_shared_feed_forward_length"] = c.integer("intermediate_size")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | hunyuan.QK_NORM | mixture.shared("shared_mlp")
    names |= {"ffn_gate_inp": "mlp.gate.wg"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
        p.experts(f"blk.{i}", f"model.layers.{i}.mlp.experts", standard.EXPERTS, _one(c, "num_experts"))
    return p


def _one(c: Config, key: str, default: int | None = None) -> int:
    """A count, which the config may list for each layer; the counts must be the same."""
    listed = c.get(key)
    if not isinstance(listed, list):
        return c.integer(key, default=default)
    if len(set(map(str, listed))) != 1:
        raise UnsupportedError(f"config.json: {key!r} is {show(listed)}, supported: one count for all layers")
    return Config({"model_type": c.model_type, key: listed[0]}).integer(key)


FAMILY = Family(
    build,
    Checkpoint(("hunyuan_v1_moe",), metadata, parts, defaults={"hunyuan_v1_moe": {"moe_topk": 1}}),
)
