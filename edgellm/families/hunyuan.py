"""Hunyuan, dense: Llama's layer with query and key heads normalized after their rotation."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program
from edgellm.program.rope import ntk_base


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `hunyuan-dense`."""
    return stack(source, "hunyuan")


def stack(source: Source, family: str, moe: blocks.Experts | None = None) -> Program:
    """Layers that Hunyuan has with experts and without."""
    b = source.builder(family)
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())

    def attention(i: int) -> blocks.Attention:
        return blocks.heads(source, i, rope=rope, qk_norm="head", norm=source.rms, norm_last=True)

    x = layers.sequential(source, b, blocks.embed(b), attention, source.rms, moe=moe)
    return blocks.head(source, b, x, source.rms)


QK_NORM = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Hunyuan checkpoint."""
    c.only("hidden_act", "silu")
    rope = c.rope()
    out = standard.base(c)
    if rope.kind == "dynamic":
        base = ntk_base(c.head_dim, rope.base, rope.number("alpha", 1.0))
        out["rope.freq_base"] = base
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    names |= QK_NORM
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(("hunyuan_v1_dense",), metadata, parts),
)
