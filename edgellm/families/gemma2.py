"""Gemma 2: norms on both sides of each part, every other layer local, softcapped logits.

The file stores norm weights with 1 added."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.metadata import Metadata
from edgellm.families.source import Source
from edgellm.families.transforms import AddOne
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gemma2`."""
    m = source.metadata
    # The 27B model scales by width / n_heads, which is not the width of its heads.
    wide = source.n_layers == 46 and not m.has("attention.scale")
    scale = (source.width / source.n_heads[0]) ** -0.5 if wide else None
    softcap = _cap(m, "attn_logit_softcapping", 50.0)
    b = source.builder("gemma2")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    windows = source.windows(every=2)
    x = blocks.embed(b, source.width**0.5)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, scale=scale, window=windows[i], softcap=softcap)
        y = blocks.attention(b, blocks.norm(b, x, f"{blk}.attn_norm", source.rms), blk, attention)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        y = blocks.glu(b, y, blk, source.n_ff[i], "gelu_tanh")
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms, softcap=_cap(m, "final_logit_softcapping", 30.0))


# llama.cpp divides by a cap in any case. One of this size changes no logit.
_NO_CAP = 2.0**100


def _cap(m: Metadata, key: str, default: float) -> float:
    """Cap of logits, 0 for none; a file without the key has the default."""
    cap = m.number(key, default, minimum=0)
    return cap if cap < _NO_CAP else 0.0


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Gemma 2 checkpoint."""
    c.only("hidden_activation", "gelu_pytorch_tanh")
    c.only("use_bidirectional_attention", False)
    out = standard.sizes(c) | standard.rms(c)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        out[key] = c.number(key, default=0.0) or _NO_CAP
    out |= standard.rope(c)
    if out["rope.freq_base"] == 10000.0:
        del out["rope.freq_base"]
    return out | standard.gemma_scale(c) | standard.windows(c, every=2)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c, norm=AddOne())
    norms = ("attn_norm", *standard.SANDWICH)
    names = standard.ATTENTION | standard.SANDWICH | standard.GLU
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, dict.fromkeys(norms, AddOne()))
    return p


_DEFAULTS = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
FAMILY = Family(
    build,
    Checkpoint(("gemma2",), metadata, parts, defaults={"gemma2": _DEFAULTS}),
)
