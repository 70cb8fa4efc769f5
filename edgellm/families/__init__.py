"""Model families: one short file each, found by the GGUF file's `general.architecture`."""

from edgellm.families.registry import FAMILIES, MODEL_TYPES, build, plan, trained_context

__all__ = ["FAMILIES", "MODEL_TYPES", "build", "plan", "trained_context"]
