"""Qwen 2 and 2.5 with vision, text: Qwen 2 with the sections that images rotate by."""

from __future__ import annotations

from edgellm.families import qwen2
from edgellm.families.checkpoint import Checkpoint, Value
from edgellm.families.config import Config
from edgellm.families.family import Family


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Qwen 2 VL checkpoint."""
    sections = c.rope().parameters.get("mrope_section") or [16, 24, 24]
    return qwen2.metadata(c) | {"rope.dimension_sections": [*sections, 0][:4]}


_TYPES = ("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text")
_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 80, "rope_theta": 1000000.0}
FAMILY = Family(
    qwen2.build,
    Checkpoint(_TYPES, metadata, qwen2.parts, defaults=dict.fromkeys(_TYPES, _DEFAULTS)),
)
