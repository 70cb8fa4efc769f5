"""Granite 3 and 4, dense and without states: Llama's layer with four multipliers."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Half, Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `granite`."""
    return stack(source, "granite")


def stack(source: Source, family: str, moe: blocks.Experts | None = None) -> Program:
    """Layers that Granite has with experts and without, and MiniCPM."""
    m = source.metadata
    b = source.builder(family)
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b, m.number("embedding_scale", 1.0)),
        lambda i: blocks.heads(source, i, rope=rope),
        source.rms,
        moe=moe,
        residual=m.number("residual_scale", 1.0),
    )
    return blocks.head(source, b, x, source.rms, scale=1 / m.number("logit_scale", 1.0))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Granite checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    if c.model_type == "granitemoehybrid" and not c.integer("num_local_experts", minimum=0):
        out["feed_forward_length"] = c.integer("shared_intermediate_size")
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = c.head_dim
    out["attention.scale"] = c.number("attention_multiplier")
    out["embedding_scale"] = c.number("embedding_multiplier")
    out["residual_scale"] = c.number("residual_multiplier")
    out["logit_scale"] = c.number("logits_scaling")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    end_parts(p, c)
    for i in range(c.n_layers):
        attention_parts(p, c, i)
        if c.model_type == "granite":
            p.layer(f"blk.{i}", f"model.layers.{i}", standard.GLU)
        else:
            shared_mlp(p, c, i)
    return p


def end_parts(p: Parts, c: Config) -> None:
    """Add the tensors outside the layers."""
    standard.rope_factors(p, c)
    standard.ends(p, c)


def attention_parts(p: Parts, c: Config, i: int) -> None:
    """Add the norms and the attention of layer `i`."""
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    p.layer(f"blk.{i}", f"model.layers.{i}", standard.ATTENTION | standard.FFN_NORM, pairs)


def shared_mlp(p: Parts, c: Config, i: int) -> None:
    """Add the dense part of layer `i`, beside its experts or alone; one matrix holds gate and up."""
    part = f"model.layers.{i}.shared_mlp"
    end = "_shexp" if c.integer("num_local_experts", minimum=0) else ""
    for name, half in (("gate", Half("first", axis=0)), ("up", Half("second", axis=0))):
        p.add(f"blk.{i}.ffn_{name}{end}.weight", f"{part}.input_linear.weight", make=half)
    p.add(f"blk.{i}.ffn_down{end}.weight", f"{part}.output_linear.weight")


MULTIPLIERS = dict.fromkeys(
    ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0
)
FAMILY = Family(
    build,
    Checkpoint(("granite",), metadata, parts, defaults={"granite": MULTIPLIERS}),
)
