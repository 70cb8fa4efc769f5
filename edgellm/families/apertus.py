"""Apertus: Llama's attention with normalized heads over a plain feed-forward part with xIELU.

The activation has numbers of its own in each layer, which the file's metadata lists.
"""

from __future__ import annotations

import math

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.metadata import Metadata
from edgellm.families.source import Source
from edgellm.program import Program

_NUMBERS = ("alpha_p", "alpha_n", "beta", "eps")


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `apertus`."""
    scalars = _scalars(source)
    b = source.builder("apertus")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope, qk_norm="head", norm=source.rms)
        x = b.add(x, blocks.attention(b, blocks.norm(b, x, f"{blk}.attn_norm", source.rms), blk, attention))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        up = b.activation(blocks.linear(b, y, f"{blk}.ffn_up", source.n_ff[i]), "xielu", scalars=scalars[i])
        x = b.add(x, blocks.linear(b, up, f"{blk}.ffn_down", source.width))
    return blocks.head(source, b, x, source.rms)


def _scalars(source: Source) -> list[dict[str, float]]:
    """The activation's numbers by layer: the file has them before softplus.

    `eps` keeps an implementation's exponential from 0 by a millionth, which changes no result here.
    """
    # Their keys have no architecture's prefix.
    m = Metadata(source.metadata.values, "xielu")
    alpha_p, alpha_n, beta = (m.numbers(name, source.n_layers) for name in _NUMBERS[:3])
    return [
        {"alpha_p": _softplus(p), "alpha_n": base + _softplus(n), "beta": base}
        for p, n, base in zip(alpha_p, alpha_n, beta, strict=True)
    ]


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an Apertus checkpoint, without the activation's numbers."""
    c.only("hidden_act", "xielu")
    c = _rotated(c)
    out = standard.base(c)
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = c.head_dim
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, _rotated(c))
    standard.ends(p, c)
    names = standard.ATTENTION | standard.QK_NORM
    names |= {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"}
    names |= {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    for name in _NUMBERS:
        sources = (f"model.layers.{i}.mlp.act_fn.{name}" for i in range(c.n_layers))
        p.metadata(f"xielu.{name}", *sources)
    return p


def _rotated(c: Config) -> Config:
    """The config with its rotation: one that names no scaling has the one of published models."""
    given = c.get("rope_parameters", "rope_scaling")
    return c if given is not None else Config({**c.values, "rope_parameters": _ROPE})


_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
FAMILY = Family(
    build,
    Checkpoint(("apertus",), metadata, parts),
)
