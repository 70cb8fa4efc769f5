"""OLMoE: experts in every layer, whole query and key rows normalized."""

from __future__ import annotations

from edgellm.families import blocks, layers, mixture, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `olmoe`."""
    b = source.builder("olmoe")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    moe = mixture.read(source, normalize=False, n_ff=source.n_ff[0])
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, qk_norm="row", norm=source.rms),
        source.rms,
        moe=moe,
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an OLMoE checkpoint."""
    c.only("hidden_act", "silu")
    c.only("clip_qkv")
    out = standard.base(c)
    out["expert_count"] = c.integer("num_experts")
    out["expert_used_count"] = c.integer("num_experts_per_tok")
    # llama.cpp never normalizes here; the key is written where a model does.
    if c.flag("norm_topk_prob", False):
        out["expert_weights_norm"] = True
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.QK_NORM | standard.FFN_NORM | {"ffn_gate_inp": "mlp.gate"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
        p.experts(f"blk.{i}", f"model.layers.{i}.mlp.experts", standard.EXPERTS, c.integer("num_experts"))
    return p


_DEFAULTS = {"num_experts": 64, "num_experts_per_tok": 8}
FAMILY = Family(
    build,
    Checkpoint(("olmoe",), metadata, parts, defaults={"olmoe": _DEFAULTS}),
)
