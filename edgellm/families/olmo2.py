"""OLMo 2: norms after attention and feed-forward, whole query and key rows normalized."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `olmo2`."""
    b = source.builder("olmo2")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    windows = source.windows(every=4)
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, window=windows[i], qk_norm="row", norm=source.rms)
        y = blocks.attention(b, x, blk, attention)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.glu(b, x, blk, source.n_ff[i])
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a OLMo 2 checkpoint."""
    c.only("hidden_act", "silu")
    return standard.base(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = {key: hf for key, hf in standard.ATTENTION.items() if key != "attn_norm"}
    names |= standard.QK_NORM | standard.GLU
    names |= {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(("olmo2",), metadata, parts),
)
