"""Phi 3, 3.5 and 4: Llama's layer with fused matrices and LongRoPE's factors by context."""

from __future__ import annotations

from functools import partial

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Constant
from edgellm.program import Program
from edgellm.program.rope import longrope_mscale


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `phi3`."""
    window = source.metadata.integer("attention.sliding_window", 0, minimum=0)
    b = source.builder("phi3")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope, window=window),
        source.rms,
        dense=partial(blocks.glu, fused=True),
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Phi 3 checkpoint."""
    c.only("hidden_act", "silu")
    rope = c.rope()
    if rope.kind not in ("default", "longrope", "su"):
        raise UnsupportedError(f"config.json: rope type {show(rope.kind)}, supported: default, longrope")
    n_ctx = c.integer("max_position_embeddings")
    original = rope.integer(
        "original_max_position_embeddings", c.integer("original_max_position_embeddings", default=n_ctx)
    )
    out = standard.sizes(c) | standard.rms(c)
    out["rope.freq_base"] = rope.base
    out["rope.dimension_count"] = _rotated(c)
    out["rope.scaling.original_context_length"] = original
    if rope.kind != "default":
        attn_factor = rope.number("attention_factor", longrope_mscale(n_ctx, original))
        out["rope.scaling.attn_factor"] = attn_factor
    # Zero is written, too. It tells Phi 4 from older files, which lack the key.
    out["attention.sliding_window"] = c.integer("sliding_window", default=0, minimum=0)
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    rope_factors(p, c)
    standard.ends(p, c)
    names = {"attn_norm": "input_layernorm", "attn_qkv": "self_attn.qkv_proj"} | standard.FFN_NORM
    names |= {"attn_output": "self_attn.o_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


def rope_factors(p: Parts, c: Config) -> None:
    """Add LongRoPE's factors, if the config has them."""
    rope = c.rope()
    if rope.kind != "default":
        for name in ("long", "short"):
            factors = rope.numbers(f"{name}_factor")
            if len(factors) != _rotated(c) // 2:
                raise ModelError(
                    f"config.json: {name}_factor has {len(factors)} values, expected {_rotated(c) // 2}"
                )
            p.add(f"rope_factors_{name}.weight", make=Constant(factors))


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share())


FAMILY = Family(
    build,
    Checkpoint(("phi3",), metadata, parts, defaults={"phi3": {"original_max_position_embeddings": 4096}}),
)
