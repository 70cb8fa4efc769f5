"""Model families: one short file each, found by the GGUF file's `general.architecture`."""

from edgellm.families.registry import FAMILIES, build, model_types, plan, trained_context

__all__ = ["FAMILIES", "build", "model_types", "plan", "trained_context"]
