"""Qwen 1.5 and 2 with a mixture of experts: Qwen 2's attention, experts beside a gated shared one."""

from __future__ import annotations

from edgellm.families import blocks, layers, mixture, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `qwen2moe`."""
    b = source.builder("qwen2_moe")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    windows = source.windows()
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, window=windows[i]),
        source.rms,
        moe=mixture.read(source, normalize=False)._replace(shared_gate=True),
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 2 MoE checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c) | mixture.sizes(c, "num_experts", "num_experts_per_tok")
    out["expert_shared_feed_forward_length"] = c.integer("shared_expert_intermediate_size")
    if c.flag("use_sliding_window", False) and c.get("sliding_window") is not None:
        types = c.layer_types()
        slides = [i % 2 == 0 and i < c.integer("max_window_layers") for i in range(c.n_layers)]
        if types is not None:
            slides = [name == "sliding_attention" for name in types]
        out["attention.sliding_window"] = c.integer("sliding_window")
        out["attention.sliding_window_pattern"] = slides
    # llama.cpp never normalizes here; the key is written where a model does.
    if c.flag("norm_topk_prob", False):
        out["expert_weights_norm"] = True
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    dense, step = c.numbers("mlp_only_layers"), c.integer("decoder_sparse_step", default=1)
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.ATTENTION | standard.FFN_NORM)
        if i in dense or (i + 1) % step:
            p.layer(blk, layer, standard.GLU)
            continue
        mixture.gated_shared_parts(p, c, blk, layer)
    return p


_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 28}
FAMILY = Family(
    build,
    Checkpoint(("qwen2_moe",), metadata, parts, defaults={"qwen2_moe": _DEFAULTS}),
)
