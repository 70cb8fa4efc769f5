"""Ministral 3: Mistral's layer with YaRN and queries that grow with their position."""

from __future__ import annotations

from edgellm.families import llama
from edgellm.families.checkpoint import Checkpoint, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `mistral3`."""
    m = source.metadata
    beta = m.number("attention.temperature_scale", 0.0, minimum=0)
    stretch = (beta, m.integer("rope.scaling.original_context_length")) if beta else None
    return llama.stack(source, "mistral3", stretch)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Ministral 3 checkpoint."""
    out = llama.metadata(c)
    rope = c.rope()
    beta = rope.number("llama_4_scaling_beta", 0.0)
    if beta:
        original = rope.integer("original_max_position_embeddings")
        out["attention.temperature_scale"] = beta
        out["rope.scaling.original_context_length"] = original
    every = rope.number("mscale_all_dim", 0.0)
    if rope.kind == "yarn" and every and every == rope.number("mscale", 0.0):
        # Two scales that cancel each other out, as llama.cpp writes them.
        out.pop("rope.scaling.attn_factor", None)
        out["rope.scaling.yarn_log_multiplier"] = every
    return out


_DEFAULTS = {
    "head_dim": 128,
    "num_key_value_heads": 8,
    # The rotation goes under its older name, so that a config's `rope_parameters` come first.
    "rope_theta": 1000000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
FAMILY = Family(
    build,
    Checkpoint(("ministral3",), metadata, llama.parts, defaults={"ministral3": _DEFAULTS}),
)
