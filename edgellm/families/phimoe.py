"""Phi 3.5 with a mixture of experts: layer norms, biased projections, experts that SparseMixer chooses."""

from __future__ import annotations

from edgellm.errors import UnsupportedError
from edgellm.families import blocks, layers, mixture, phi3, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Norm, Source
from edgellm.program import Program

_JITTER = 0.01


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `phimoe`."""
    m = source.metadata
    # The key of the epsilon is the one of Phi 3's RMS norms.
    norm = Norm("layer", m.number("attention.layer_norm_rms_epsilon"))
    window = m.integer("attention.sliding_window", 0, minimum=0)
    moe = mixture.read(source, normalize=False, n_ff=source.n_ff[0])
    moe = moe._replace(gating="sparse_mixer", jitter=m.number("router_jitter_noise", _JITTER, minimum=0))
    b = source.builder("phimoe")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, window=window),
        norm,
        moe=moe,
    )
    return blocks.head(source, b, x, norm)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Phi 3.5 MoE checkpoint."""
    # SparseMixer is defined for two experts.
    c.only("num_experts_per_tok", 2)
    out = phi3.metadata(c)
    rope = c.rope()
    if rope.kind != "default":
        scales = [rope.number(f"{name}_mscale") for name in ("short", "long")]
        if scales[0] != scales[1]:
            raise UnsupportedError(
                f"config.json: 'short_mscale' is {scales[0]}, 'long_mscale' {scales[1]}, supported: one value"
            )
        out["rope.scaling.attn_factor"] = scales[0]
    out["expert_count"] = c.integer("num_local_experts")
    out["expert_used_count"] = c.integer("num_experts_per_tok")
    jitter = c.number("router_jitter_noise", default=_JITTER)
    if jitter != _JITTER:
        out["router_jitter_noise"] = jitter
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    phi3.rope_factors(p, c)
    standard.ends(p, c)
    names = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.ATTENTION | standard.FFN_NORM)
        p.add(f"{blk}.ffn_gate_inp.weight", f"{layer}.mlp.router.weight", optional=True)
        p.add(f"{blk}.ffn_gate_inp.weight", f"{layer}.block_sparse_moe.gate.weight")
        p.stacked_experts(blk, f"{layer}.mlp.experts")
        p.experts(blk, f"{layer}.block_sparse_moe.experts", names, c.integer("num_local_experts"))
    return p


_DEFAULTS = {"num_local_experts": 16, "num_experts_per_tok": 2, "num_key_value_heads": 8}
FAMILY = Family(
    build,
    Checkpoint(("phimoe",), metadata, parts, defaults={"phimoe": _DEFAULTS}),
)
