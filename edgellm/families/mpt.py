"""MPT: ALiBi instead of positions, norms without biases, plain feed-forward parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from edgellm.errors import ModelError, show
from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import ScaleRows, Transform
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `mpt`."""
    source.metadata.refuse("attention.clamp_kqv")
    max_bias = source.metadata.number("attention.max_alibi_bias")
    b = source.builder("mpt")
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=None)._replace(max_bias=max_bias),
        source.layer_norm,
        dense=partial(blocks.mlp, activation="gelu"),
    )
    return blocks.head(source, b, x, source.layer_norm)


_LAYER = {
    "attn_norm": "norm_1",
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "ffn_norm": "norm_2",
    "ffn_up": "ffn.up_proj",
    "ffn_down": "ffn.down_proj",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an MPT checkpoint."""
    c.only("norm_type", "low_precision_layernorm", "layernorm")
    c.only("logit_scale")
    attention = _attention(c)
    attention.only("attn_type", "multihead_attention")
    attention.only("clip_qkv")
    attention.only("prefix_lm", False)
    attention.only("qk_ln", False)
    attention.only("alibi", True)
    out: dict[str, Value] = {
        "context_length": c.integer("max_seq_len", default=2048),
        "embedding_length": c.width,
        "block_count": c.n_layers,
        "feed_forward_length": c.integer("expansion_ratio", default=4) * c.width,
        "attention.head_count": c.n_heads,
        "attention.max_alibi_bias": float(attention.number("alibi_bias_max", default=8.0)),
    }
    return out | standard.layer_norm(c, "layer_norm_epsilon")


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "transformer.wte.weight")
    p.layer("", "transformer", {"output_norm": "norm_f"})
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    makes: dict[str, Transform] = {}
    attention = _attention(c)
    if attention.get("softmax_scale") is not None:
        # llama.cpp's MPT reads no scale of attention, so the queries take it.
        factor = attention.number("softmax_scale") * (c.width / c.n_heads) ** 0.5
        makes["attn_qkv"] = ScaleRows((c.width, 2 * c.width), (factor, 1.0))
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"transformer.blocks.{i}", _LAYER, makes)
    return p


def _attention(c: Config) -> Config:
    """Settings of attention, which the config nests."""
    given = c.get("attn_config") or {}
    if not isinstance(given, Mapping):
        raise ModelError(f"config.json: 'attn_config' is {show(given)}, expected an object")
    return Config({**given, "model_type": c.model_type}, {"alibi": True})


FAMILY = Family(
    build,
    Checkpoint(("mpt",), metadata, parts, defaults={"mpt": {"layer_norm_epsilon": 1e-5}}),
)
