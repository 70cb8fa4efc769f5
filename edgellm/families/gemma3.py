"""Gemma 3, text: Gemma 2's layer with normalized heads; five local layers to each global one.

Local layers rotate with a base of their own, without scaling. The file stores norm weights with 1 added.
"""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import AddOne
from edgellm.program import Builder, Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gemma3`."""
    b = source.builder("gemma3")
    x = stack(source, b, source.windows(every=6))
    softcap = source.metadata.number("final_logit_softcapping", 0.0, minimum=0)
    return blocks.head(source, b, x, source.rms, softcap=softcap)


def stack(source: Source, b: Builder, windows: tuple[int, ...], *, causal: bool = True) -> str:
    """Rows after the layers that Gemma 3 and EmbeddingGemma have."""
    m = source.metadata
    # The 27B model scales by width / n_heads, which is not the width of its heads.
    wide = source.n_layers == 62 and not m.has("attention.scale")
    scale = (source.width / source.n_heads[0]) ** -0.5 if wide else None
    ropes = {}
    if 0 in windows:
        base = m.number("rope.freq_base", 1e6)
        ropes[0] = blocks.Rope(source.rope_table(b, base=base), factors=source.rope_factors())
    if any(windows):
        local_base = m.number("rope.freq_base_swa", 10000.0)
        local = source.rope_table(b, name="rope_local", base=local_base, scaled=False)
        ropes[max(windows)] = blocks.Rope(local)
    x = blocks.embed(b, source.width**0.5)
    for i, window in enumerate(windows):
        blk = f"blk.{i}"
        attention = blocks.heads(
            source, i, rope=ropes[window], scale=scale, window=window, qk_norm="head", norm=source.rms
        )
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        y = blocks.attention(b, y, blk, attention._replace(causal=causal))
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        y = blocks.glu(b, y, blk, source.n_ff[i], "gelu_tanh")
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return x


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Gemma 3 checkpoint."""
    c.only("hidden_activation", "gelu_pytorch_tanh")
    c.only("attn_logit_softcapping")
    out = standard.sizes(c) | standard.rms(c)
    out |= standard.rope(c, "full_attention")
    out["rope.freq_base_swa"] = _local_base(c)
    if c.get("final_logit_softcapping") is not None:
        out["final_logit_softcapping"] = c.number("final_logit_softcapping")
    return out | standard.gemma_scale(c) | standard.windows(c, every=6)


def architecture(c: Config) -> str | None:
    """Architecture of a model whose tokens see the whole text, which makes embeddings."""
    return "gemma-embedding" if c.flag("use_bidirectional_attention", False) else None


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, layer_type="full_attention")
    standard.ends(p, c, norm=AddOne())
    norms = ("attn_norm", *standard.SANDWICH, *standard.QK_NORM)
    names = standard.ATTENTION | standard.QK_NORM | standard.SANDWICH | standard.GLU
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, dict.fromkeys(norms, AddOne()))
    return p


def _local_base(c: Config) -> float:
    """Base of the local layers' rotation, from its own key or from the parameters of these layers."""
    parameters = c.get("rope_parameters")
    if isinstance(parameters, dict) and "sliding_attention" in parameters:
        standard.require_unscaled_rope(c, "sliding_attention")
        return c.rope("sliding_attention").base
    return c.number("rope_local_base_freq", default=10000.0)


# Defaults of transformers' Gemma3TextConfig. Published configs leave many of these keys out.
_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_TYPES = ("gemma3", "gemma3_text")
FAMILY = Family(
    build,
    Checkpoint(_TYPES, metadata, parts, defaults=dict.fromkeys(_TYPES, _DEFAULTS), architecture=architecture),
)
