"""Model families: one short file each, found by the GGUF file's `general.architecture`."""

from edgellm.families.registry import FAMILIES, build

__all__ = ["FAMILIES", "build"]
