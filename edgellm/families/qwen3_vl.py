"""Qwen 3 with vision, text: Qwen 3 with the sections that images rotate by."""

from __future__ import annotations

from edgellm.families import qwen3, standard
from edgellm.families.checkpoint import Checkpoint, Value
from edgellm.families.config import Config
from edgellm.families.family import Family


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 3 VL checkpoint."""
    return qwen3.metadata(c) | vision(c)


def vision(c: Config) -> dict[str, Value]:
    """Metadata that tells of images: sections of the rotation, layers that image features are added to."""
    seen = c.get("vision_config") or {}
    layers = seen.get("deepstack_visual_indexes") if isinstance(seen, dict) else None
    n_layers = len(layers) if isinstance(layers, list) else 0
    return standard.interleaved_sections(c, (24, 20, 20), c.head_dim) | {"n_deepstack_layers": n_layers}


_TYPES = ("qwen3_vl", "qwen3_vl_text")
_DEFAULTS = {"head_dim": 128, "rope_theta": 5000000.0}
FAMILY = Family(
    qwen3.build,
    Checkpoint(_TYPES, metadata, qwen3.parts, defaults=dict.fromkeys(_TYPES, _DEFAULTS)),
)
