"""StableLM 2: layer norm, partly rotated heads, optional side-by-side residual and head norms."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Stack
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `stablelm`."""
    parallel = source.metadata.flag("use_parallel_residual", False)
    b = source.builder("stablelm")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())

    def attention(i: int) -> blocks.Attention:
        normed = b.has(f"blk.{i}.attn_q_norm.weight")
        return blocks.heads(source, i, rope=rope, qk_norm="heads" if normed else None, norm=source.layer_norm)

    x = blocks.embed(b)
    if parallel:
        x = layers.parallel(source, b, x, attention, source.layer_norm)
    else:
        x = layers.sequential(source, b, x, attention, source.layer_norm)
    return blocks.head(source, b, x, source.layer_norm)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a StableLM checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.sizes(c) | standard.layer_norm(c, "layer_norm_eps")
    out |= standard.rope(c)
    if out["rope.freq_base"] == 10000.0:
        del out["rope.freq_base"]
    out["rope.dimension_count"] = _rotated(c)
    out["use_parallel_residual"] = c.flag("use_parallel_residual", False)
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, _rotated(c))
    standard.ends(p, c)
    names = standard.ATTENTION | standard.GLU
    if not c.flag("use_parallel_residual", False):
        names |= standard.FFN_NORM
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, names)
        if c.flag("qk_layernorm", False):
            for gguf, hf, n in (("attn_q_norm", "q", c.n_heads), ("attn_k_norm", "k", c.n_kv_heads)):
                norms = (f"{layer}.self_attn.{hf}_layernorm.norms.{head}.weight" for head in range(n))
                p.add(f"{blk}.{gguf}.weight", *norms, make=Stack())
    return p


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share(0.25))


FAMILY = Family(
    build,
    Checkpoint(("stablelm",), metadata, parts),
)
