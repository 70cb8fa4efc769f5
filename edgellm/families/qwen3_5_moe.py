"""Qwen 3.5 and 3.6 with a mixture of experts, text: Qwen 3.5's layers, experts beside a gated shared one."""

from __future__ import annotations

from edgellm.families import mixture, qwen3_5, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import AddOne
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen35moe`."""
    moe = mixture.read(source, normalize=True)._replace(shared_gate=True)
    return qwen3_5.stack(source, "qwen3_5_moe", tiled=True, experts=moe)


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
    qwen3_5.layer_parts(p, c, lambda to, i, layer: mixture.gated_shared_parts(to, c, f"blk.{i}", layer))
    return p


_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
FAMILY = Family(
    build,
    Checkpoint(_TYPES, metadata, parts, defaults={name: {"head_dim": 256} for name in _TYPES}),
    f32=(r".*ssm_conv1d\.weight",),
)
