"""MiniCPM 1, 2 and 4: Llama's layer with scaled embeddings, residuals and logits."""

from __future__ import annotations

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.families import granite, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Constant, Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `minicpm`."""
    return granite.stack(source, "minicpm")


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a MiniCPM checkpoint."""
    c.only("hidden_act", "silu")
    c.only("num_experts", 0)
    out = standard.sizes(c) | standard.rms(c)
    rope = c.rope()
    out["rope.freq_base"] = rope.base
    if _long(c):
        out["rope.scaling.type"] = "longrope"
        original = rope.integer("original_max_position_embeddings", c.integer("max_position_embeddings"))
        out["rope.scaling.original_context_length"] = original
    out["rope.dimension_count"] = c.head_dim
    out["vocab_size"] = c.integer("vocab_size")
    out["embedding_scale"] = c.number("scale_emb")
    out["residual_scale"] = c.number("scale_depth") / c.n_layers**0.5
    out["logit_scale"] = c.width / c.integer("dim_model_base")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    for name in ("long", "short") if _long(c) else ():
        factors = c.rope().numbers(f"{name}_factor")
        if len(factors) != c.head_dim // 2:
            found = f"{name}_factor has {len(factors)} values"
            raise ModelError(f"config.json: {found}, expected {c.head_dim // 2}")
        p.add(f"rope_factors_{name}.weight", make=Constant(factors))
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, pairs)
    return p


def _long(c: Config) -> bool:
    """True if the rotation has LongRoPE's factors."""
    kind = c.rope().kind
    if kind not in ("default", "longrope"):
        raise UnsupportedError(f"config.json: rope type {show(kind)}, supported: default, longrope")
    return kind == "longrope"


_DEFAULTS = {"scale_emb": 1, "scale_depth": 1, "dim_model_base": 1, "tie_word_embeddings": True}
FAMILY = Family(
    build,
    Checkpoint(("minicpm",), metadata, parts, defaults={"minicpm": _DEFAULTS}),
)
