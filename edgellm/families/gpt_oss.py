"""GPT-OSS: experts with clamped SwiGLU and biases, attention sinks, every other layer local."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Chain, Every, Transpose
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gpt-oss`."""
    n_experts, n_used = source.experts
    moe = blocks.Experts(
        n_experts,
        n_used,
        source.metadata.integer("expert_feed_forward_length"),
        gating="softmax_chosen",
        activation="swiglu_oai",
        limit=7.0,
        alpha=1.702,
    )
    b = source.builder("gpt_oss")
    windows = source.windows(every=2)
    rope = blocks.Rope(source.rope_table(b, truncate=False), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, window=windows[i], sinks=True),
        source.rms,
        moe=moe,
        ffn_norm="post_attention_norm",
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a GPT-OSS checkpoint."""
    c.only("hidden_act", "silu")
    c.only("swiglu_limit", 7.0)
    c.only("swiglu_alpha", 1.702)
    out = standard.base(c)
    out |= standard.windows(c, every=2)
    # A missing key means truncation in a config, and none in a file.
    truncate = "rope.scaling.yarn_truncate"
    if c.rope().kind == "yarn" and not out.setdefault(truncate, True):
        del out[truncate]
    out["expert_count"] = c.integer("num_local_experts", "num_experts")
    out["expert_used_count"] = c.integer("num_experts_per_tok", "experts_per_token")
    out["expert_feed_forward_length"] = c.integer("intermediate_size")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | {"post_attention_norm": "post_attention_layernorm"}
    names |= {"ffn_gate_inp": "mlp.router"}
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, names)
        p.add(f"{blk}.attn_sinks.weight", f"{layer}.self_attn.sinks")
        experts = f"{layer}.mlp.experts"
        for start, part in ((0, "ffn_gate_exps"), (1, "ffn_up_exps")):
            columns = Chain((Transpose(), Every(start, 2, 1)))
            p.add(f"{blk}.{part}.weight", f"{experts}.gate_up_proj", make=columns)
            p.add(f"{blk}.{part}.bias", f"{experts}.gate_up_proj_bias", make=Every(start, 2, 1))
        p.add(f"{blk}.ffn_down_exps.weight", f"{experts}.down_proj", make=Transpose())
        p.add(f"{blk}.ffn_down_exps.bias", f"{experts}.down_proj_bias")
    return p


# The rotation goes under its older name, so that a config's `rope_parameters` come first.
_DEFAULTS = {
    "head_dim": 64,
    "sliding_window": 128,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
FAMILY = Family(
    build,
    Checkpoint(("gpt_oss",), metadata, parts, defaults={"gpt_oss": _DEFAULTS}),
)
