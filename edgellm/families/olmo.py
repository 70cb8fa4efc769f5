"""OLMo 1: layer norms without weights."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Pairs
from edgellm.program import Builder, Program

_EPS = 1e-5


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `olmo`."""
    source.metadata.refuse("attention.clamp_kqv")
    b = source.builder("olmo")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.attention(b, _norm(source, b, x), blk, blocks.heads(source, i, rope=rope))
        x = b.add(x, y)
        x = b.add(x, blocks.glu(b, _norm(source, b, x), blk, source.n_ff[i]))
    hidden = _norm(source, b, x)
    weight = "output.weight" if b.has("output.weight") else "token_embd.weight"
    return b.build(hidden=hidden, logits=b.linear(hidden, weight, b.n_vocab), pooling=source.pooling)


def _norm(source: Source, b: Builder, x: str) -> str:
    return b.norm(x, kind="layer", eps=source.layer_norm.eps)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an OLMo checkpoint."""
    c.only("hidden_act", "silu")
    c.only("clip_qkv")
    return standard.sizes(c) | standard.rope(c) | {"attention.layer_norm_epsilon": _EPS}


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    p.add("token_embd.weight", "model.embed_tokens.weight")
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    names = {key: hf for key, hf in standard.ATTENTION.items() if key != "attn_norm"} | standard.GLU
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, pairs)
    return p


FAMILY = Family(
    build,
    Checkpoint(("olmo",), metadata, parts),
)
