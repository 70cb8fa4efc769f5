"""All families, and the way from a model file's metadata to its program."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.families.checkpoint import Part, Plan, plan_tensors
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Shape, Source
from edgellm.program import Program
from edgellm.program.exported import is_exported, stored_program

# GGUF architecture -> the family's module; a module is imported when a file asks for it.
FAMILIES: dict[str, str] = {
    "bert": "bert",
    "cohere2": "cohere2",
    "deepseek2": "deepseek_v2",
    "ernie4_5": "ernie4_5",
    "exaone4": "exaone4",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "glm4": "glm4",
    "gpt-oss": "gpt_oss",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "hunyuan-dense": "hunyuan",
    "lfm2": "lfm2",
    "llama": "llama",
    "mamba2": "mamba2",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen35": "qwen3_5",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}


def family(architecture: str) -> Family:
    """The family of GGUF files of `architecture`; UnsupportedError lists the supported ones."""
    module = FAMILIES.get(architecture)
    if module is None:
        raise UnsupportedError(
            f"metadata 'general.architecture' is {show(architecture)}, which edgellm does not implement; "
            f"supported: {', '.join(sorted(FAMILIES))}"
        )
    return _load(module)


def _load(module: str) -> Family:
    found = importlib.import_module(f"edgellm.families.{module}").FAMILY
    assert isinstance(found, Family)
    return found


# Hugging Face's model_type -> the family's module.
MODEL_TYPES: dict[str, str] = {
    "bert": "bert",
    "cohere2": "cohere2",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v2",
    "ernie4_5": "ernie4_5",
    "exaone4": "exaone4",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "granite": "granite",
    "hunyuan_v1_dense": "hunyuan",
    "lfm2": "lfm2",
    "llama": "llama",
    "mamba2": "mamba2",
    "mistral": "llama",
    "mixtral": "llama",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_moe": "qwen3_moe",
    "qwen3_next": "qwen3_next",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}


def plan(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Plan:
    """What a GGUF file of a checkpoint will hold, from its config.json and its tensors' shapes alone.

    The plan is checked by building the program of the file it describes. Raises UnsupportedError for a
    model type or a config value that is not implemented, ModelError for tensors that do not fit.
    """
    settings = Config(config)
    made_by = _of_model_type(settings.model_type)
    metadata = made_by.checkpoint.metadata(settings)
    tensors = plan_tensors(made_by.checkpoint, settings, shapes)
    named = {"general.architecture": made_by.architecture, **metadata}
    build(named, {tensor.name: tensor.shape for tensor in tensors})
    return Plan(made_by.architecture, metadata, tensors)


def parts(config: Mapping[str, Any]) -> tuple[Part, ...]:
    """The tensors that a checkpoint's GGUF file may hold, and what each is made from, by config.json alone.

    Raises as `plan` does.
    """
    settings = Config(config)
    return tuple(_of_model_type(settings.model_type).checkpoint.parts(settings).items)


def _of_model_type(model_type: str) -> Family:
    module = MODEL_TYPES.get(model_type)
    if module is None:
        raise UnsupportedError(
            f"config.json: 'model_type' is {show(model_type)}, which edgellm does not implement; "
            f"supported: {', '.join(sorted(MODEL_TYPES))}"
        )
    return _load(module)


def build(
    metadata: Mapping[str, Any], tensors: Mapping[str, Shape], *, context: int | None = None
) -> Program:
    """The program of a model file, for a context of `context` tokens (None: the trained length).

    `tensors` maps names to shapes in NumPy order. Raises UnsupportedError for an architecture or a
    metadata value that is not implemented, ModelError for a missing tensor, a wrong shape or a tensor
    that the family does not know. Where the weights are elsewhere, in ONNX form, the program is that of the
    metadata.
    """
    if is_exported(metadata) and not tensors:
        return stored_program(metadata)
    made_by = _of_metadata(metadata)
    program = made_by.build(Source(metadata, made_by.architecture, tensors, context))
    _refuse_unknown(made_by, program, tensors)
    return program


def trained_context(metadata: Mapping[str, Any]) -> int:
    """The tokens of context that a file's model was trained with; raises as `build` does."""
    if is_exported(metadata):
        return stored_program(metadata).n_ctx_train
    return Source(metadata, _of_metadata(metadata).architecture, {}).n_ctx_train


def _of_metadata(metadata: Mapping[str, Any]) -> Family:
    if metadata.get("general.type") == "adapter":
        raise UnsupportedError(
            "the file is a LoRA adapter, expected a model; load its model with --lora FILE"
        )
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(
            "metadata 'general.architecture' is missing; the file is not a language model, "
            "or was cut while it was written"
        )
    return family(architecture)


def _refuse_unknown(made_by: Family, program: Program, tensors: Mapping[str, Shape]) -> None:
    """A tensor that the program does not read would be silently wrong output: refuse it."""
    extra = [name for name in tensors if name not in program.weights]
    patterns = [
        re.compile(pattern)
        for pattern in (r"rope_(freqs|factors_long|factors_short)\.weight", *made_by.ignored)
    ]
    for name in extra:
        if not any(pattern.fullmatch(name) for pattern in patterns):
            raise UnsupportedError(
                f"tensor {name!r} is in the file, but the {program.family} family does not use it; "
                "the model is a variant that edgellm does not implement"
            )
