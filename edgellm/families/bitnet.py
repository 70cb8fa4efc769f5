"""BitNet: Llama's layer with a norm before each output projection, and ternary matrices.

Two architectures differ in the activation of the gated part.
"""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `bitnet`."""
    return stack(source, "bitnet", "silu")


def stack(source: Source, family: str, activation: str) -> Program:
    """Layers of both architectures."""
    b = source.builder(family)
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source,
        b,
        blocks.embed(b),
        lambda i: blocks.heads(source, i, rope=rope)._replace(out_norm=source.rms),
        source.rms,
        dense=partial(blocks.glu, activation=activation, inner_norm=source.rms),
    )
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a BitNet checkpoint."""
    c.only("hidden_act", "silu", "relu2")
    out = standard.base(c)
    out["vocab_size"] = c.integer("vocab_size")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM | standard.GLU
    names |= {"attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


def architecture(c: Config) -> str:
    """Architecture of a checkpoint's file: the activation tells it."""
    return "bitnet" if c.get("hidden_act") == "silu" else "bitnet-b1.58"


_DEFAULTS = {"rope_theta": 500000.0, "num_key_value_heads": 5}
FAMILY = Family(
    build,
    Checkpoint(("bitnet",), metadata, parts, defaults={"bitnet": _DEFAULTS}, architecture=architecture),
)
