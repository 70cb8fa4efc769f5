"""EXAONE 4: norms after each part, normalized heads; with local layers, only those are rotated."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `exaone4`."""
    b = source.builder("exaone4")
    windows = source.windows(every=4)
    everywhere = source.metadata.integer("attention.sliding_window", 0, minimum=0) == 0
    rope = None
    if everywhere or any(windows):
        rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = blocks.embed(b)
    for i, window in enumerate(windows):
        blk = f"blk.{i}"
        rotated = rope if window or everywhere else None
        attention = blocks.heads(source, i, rope=rotated, window=window, qk_norm="head", norm=source.rms)
        y = blocks.attention(b, x, blk, attention)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.glu(b, x, blk, source.n_ff[i])
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a EXAONE 4 checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    windows = standard.windows(c, every=4)
    if not windows and c.get("sliding_window") is not None:
        # Written even where no layer slides: then none is rotated.
        windows["attention.sliding_window"] = c.integer("sliding_window")
        windows["attention.sliding_window_pattern"] = [False] * c.n_layers
    return out | windows


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
    Checkpoint(("exaone4",), metadata, parts, defaults={"exaone4": {"sliding_window": 4096}}),
)
