"""Qwen3-Next: three gated delta layers to one of gated attention; experts beside a shared one.

The file stores norm weights with 1 added, except for the norms inside delta layers.
"""

from __future__ import annotations

from edgellm.families import mixture, qwen3_5, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import AddOne
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen3next`."""
    moe = mixture.read(source, normalize=True)._replace(shared_gate=True)
    return qwen3_5.stack(source, "qwen3_next", tiled=False, experts=moe)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen3-Next checkpoint."""
    out = qwen3_5.delta_metadata(c)
    out["expert_count"] = c.integer("num_experts")
    out["expert_used_count"] = c.integer("num_experts_per_tok")
    out["expert_feed_forward_length"] = c.integer("moe_intermediate_size")
    out["expert_shared_feed_forward_length"] = c.integer("shared_expert_intermediate_size")
    if not c.flag("norm_topk_prob", True):
        out["expert_weights_norm"] = False
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, qwen3_5.rotated(c))
    standard.ends(p, c, norm=AddOne())
    dense, step = c.numbers("mlp_only_layers"), c.integer("decoder_sparse_step", default=1)

    def feed_forward(to: Parts, i: int, layer: str) -> None:
        if i in dense or (i + 1) % step:
            to.layer(f"blk.{i}", layer, standard.GLU)
        else:
            mixture.gated_shared_parts(to, c, f"blk.{i}", layer)

    qwen3_5.layer_parts(p, c, feed_forward)
    return p


FAMILY = Family(
    build,
    Checkpoint(("qwen3_next",), metadata, parts, defaults={"qwen3_next": {"head_dim": 256}}),
    f32=(r".*ssm_conv1d\.weight",),
)
