"""SmolLM3: Llama's layer, with no rotation in every fourth one."""

from __future__ import annotations

from edgellm.errors import ModelError
from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `smollm3`."""
    b = source.builder("smollm3")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    windows = source.windows()
    rotated = tuple((i + 1) % 4 != 0 for i in range(source.n_layers))
    if source.metadata.is_list("rope.layers"):
        rotated = source.metadata.flags("rope.layers", source.n_layers)

    def attention(i: int) -> blocks.Attention:
        return blocks.heads(source, i, rope=rope if rotated[i] else None, window=windows[i])

    x = layers.sequential(source, b, blocks.embed(b), attention, source.rms)
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a SmolLM3 checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    rotated = _rotated(c)
    if c.get("use_sliding_window") and c.get("sliding_window") is not None:
        types = c.layer_types()
        slides = [not r for r in rotated] if types is None else [t == "sliding_attention" for t in types]
        out["attention.sliding_window"] = c.integer("sliding_window")
        out["attention.sliding_window_pattern"] = slides
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = c.head_dim
    if rotated != [(i + 1) % 4 != 0 for i in range(c.n_layers)]:
        out["rope.layers"] = rotated
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names, pairs)
    return p


def _rotated(c: Config) -> list[bool]:
    """True for each rotated layer: those that the config lists with 1, or all but each n-th."""
    listed = c.numbers("no_rope_layers")
    if not listed:
        every = c.integer("no_rope_layer_interval", default=4)
        return [(i + 1) % every != 0 for i in range(c.n_layers)]
    if len(listed) < c.n_layers:
        raise ModelError(f"config.json: 'no_rope_layers' has {len(listed)} values, expected {c.n_layers}")
    return [bool(flag) for flag in listed[: c.n_layers]]


FAMILY = Family(
    build,
    Checkpoint(("smollm3",), metadata, parts, defaults={"smollm3": {"rope_theta": 2000000.0}}),
)
