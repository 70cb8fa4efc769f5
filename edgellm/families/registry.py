"""Registry of the families, and the way from a model file's metadata to its program."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from edgellm.errors import ModelError, UnsupportedError
from edgellm.families import nextn
from edgellm.families.checkpoint import Checkpoint, CheckpointPlan, Part, plan_tensors
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.metadata import MAX_LAYERS
from edgellm.families.missing import refusal
from edgellm.families.source import Shape, Source
from edgellm.program import Program
from edgellm.program.exported import is_exported, stored_program

# GGUF architecture -> the family's module, which is imported when a file needs it.
FAMILIES: dict[str, str] = {
    "apertus": "apertus",
    "arcee": "arcee",
    "bert": "bert",
    "bitnet": "bitnet",
    "bitnet-b1.58": "bitnet_b1_58",
    "bloom": "bloom",
    "cohere2": "cohere2",
    "deepseek2": "deepseek_v2",
    "ernie4_5": "ernie4_5",
    "ernie4_5-moe": "ernie4_5_moe",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "falcon-h1": "falcon_h1",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma-embedding": "gemma_embedding",
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "glm4": "glm4",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "granitehybrid": "granite_hybrid",
    "granitemoe": "granite_moe",
    "hunyuan-dense": "hunyuan",
    "hunyuan-moe": "hunyuan_moe",
    "lfm2": "lfm2",
    "lfm2moe": "lfm2_moe",
    "jina-bert-v2": "jina_bert_v2",
    "llama": "llama",
    "mamba2": "mamba2",
    "minicpm": "minicpm",
    "mistral3": "mistral3",
    "modern-bert": "modern_bert",
    "mpnet": "mpnet",
    "mpt": "mpt",
    "nemotron_h": "nemotron_h",
    "nemotron_h_moe": "nemotron_h_moe",
    "nomic-bert": "nomic_bert",
    "nomic-bert-moe": "nomic_bert_moe",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "opt": "opt",
    "phi2": "phi2",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen2vl": "qwen2_vl",
    "qwen3": "qwen3",
    "qwen35": "qwen3_5",
    "qwen35moe": "qwen3_5_moe",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "qwen3vl": "qwen3_vl",
    "qwen3vlmoe": "qwen3_vl_moe",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}


def family(architecture: str) -> Family:
    """The family of GGUF files of `architecture`; UnsupportedError lists the supported ones."""
    module = FAMILIES.get(architecture)
    if module is None:
        raise refusal("metadata 'general.architecture'", architecture, FAMILIES)
    found = importlib.import_module(f"edgellm.families.{module}").FAMILY
    assert isinstance(found, Family)
    return found


@cache
def model_types() -> dict[str, str]:
    """Hugging Face's model_type -> GGUF architecture, of all families."""
    return {name: found for found in FAMILIES for name in family(found).checkpoint.model_types}


def plan(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> CheckpointPlan:
    """Plan of a checkpoint's GGUF file, from its config.json and its tensors' shapes alone.

    The plan is checked by building the program of the file it describes. Raises UnsupportedError for a
    model type or a config value that is not implemented, ModelError for tensors that do not fit.
    """
    architecture, checkpoint, settings = _chosen(config)
    metadata: dict[str, Any] = {
        f"{architecture}.{key}": value for key, value in checkpoint.metadata(settings).items()
    }
    tensors, numbers = plan_tensors(checkpoint, settings, shapes)
    more = nextn.count({tensor.name for tensor in tensors})
    if more:
        metadata[f"{architecture}.block_count"] += more
        metadata[f"{architecture}.nextn_predict_layers"] = more
    planned = CheckpointPlan(architecture, metadata, tensors, numbers)
    named = {"general.architecture": architecture, **planned.completed(lambda name: 1.0).metadata}
    build(named, {tensor.name: tensor.shape for tensor in tensors})
    return planned


def supported(config: Mapping[str, Any]) -> str:
    """Architecture of the file that a checkpoint makes, from config.json alone.

    Raises UnsupportedError for a model type or a value that is not implemented, ModelError for a bad one.
    """
    architecture, checkpoint, settings = _chosen(config)
    checkpoint.metadata(settings)
    checkpoint.parts(settings)
    return architecture


def parts(config: Mapping[str, Any]) -> tuple[Part, ...]:
    """Tensors that a checkpoint's GGUF file may hold, with their sources, from config.json alone.

    Raises as `plan` does.
    """
    _, checkpoint, settings = _chosen(config)
    listed = checkpoint.parts(settings)
    return (*listed.items, *listed.more)


def model_type(architecture: str, *, mixture: bool) -> str:
    """Model type of a file's checkpoint, as far as the file tells; raises as `family` does.

    mixture: the file holds experts. Model types that the file does not tell apart name their tensors alike.
    """
    checkpoint = family(architecture).checkpoint
    if checkpoint.mixture and (mixture or not checkpoint.model_types):
        return checkpoint.mixture
    return checkpoint.model_types[0]


@cache
def f32_pattern() -> re.Pattern[str]:
    """Names of two-dimensional tensors that are never quantized: no matrix products, or small and sensitive.

    The patterns of all families together, because a file to be quantized may belong to none of them.
    """
    common = (r".*(_norm|ffn_gate_inp)\.weight", r"rope_freqs\.weight")
    return re.compile("|".join((*common, *(pattern for found in FAMILIES for pattern in family(found).f32))))


def _chosen(config: Mapping[str, Any]) -> tuple[str, Checkpoint, Config]:
    """Architecture of the file to write, its family's checkpoints, and the config with its defaults."""
    architecture = _architecture(config)
    checkpoint = family(architecture).checkpoint
    settings = checkpoint.config(config)
    other = checkpoint.architecture(settings) if checkpoint.architecture else None
    return (other, family(other).checkpoint, settings) if other else (architecture, checkpoint, settings)


def _architecture(config: Mapping[str, Any]) -> str:
    name = Config(config).model_type
    found = model_types().get(name)
    if found is None:
        raise refusal("config.json: 'model_type'", name, model_types())
    return found


# Values of general.type and general.architecture of files that are no models.
_OTHER_FILES = {
    "adapter": "a LoRA adapter, expected a model; load its model with --lora FILE",
    "imatrix": "an importance matrix, expected a model; use it with `edgellm convert --imatrix FILE`",
    "mmproj": "the image or audio part of a model (mmproj), expected its text model; load that file instead",
    "clip": "the image or audio part of a model (mmproj), expected its text model; load that file instead",
    "controlvector": "a control vector, expected a model; control vectors are not implemented",
}


def build(
    metadata: Mapping[str, Any], tensors: Mapping[str, Shape], *, context: int | None = None
) -> Program:
    """Build the program of a model file, for a context of `context` tokens (None: the trained length).

    tensors: name -> shape in NumPy order. Raises UnsupportedError for an architecture or a metadata value
    that is not implemented, ModelError for a missing tensor, a wrong shape, or a tensor that the family does
    not read. A file in ONNX form stores its program, which is returned.
    """
    if is_exported(metadata) and not tensors:
        return stored_program(metadata)
    architecture = _architecture_of_file(metadata)
    if not tensors and "tokenizer.ggml.tokens" in metadata:
        raise UnsupportedError("the file holds a vocabulary without weights, expected a model")
    if nextn.count(tensors) and not any(name.startswith("blk.0.") for name in tensors):
        raise UnsupportedError(
            "the file holds only the blocks of multi-token prediction, expected the whole model"
        )
    made_by = family(architecture)
    program = made_by.build(Source(metadata, architecture, tensors, context))
    _refuse_unknown(made_by, program, tensors, _unused_blocks(metadata, architecture, program))
    return program


def trained_context(metadata: Mapping[str, Any]) -> int:
    """Tokens of context that a file's model was trained with; raises as `build` does."""
    if is_exported(metadata):
        return stored_program(metadata).n_ctx_train
    architecture = _architecture_of_file(metadata)
    family(architecture)
    return Source(metadata, architecture, {}).n_ctx_train


def _architecture_of_file(metadata: Mapping[str, Any]) -> str:
    architecture = metadata.get("general.architecture")
    kinds = (metadata.get("general.type"), architecture)
    for kind, described in _OTHER_FILES.items():
        if kind in kinds:
            raise UnsupportedError(f"the file is {described}")
    if not isinstance(architecture, str):
        raise ModelError(
            "metadata 'general.architecture' is missing; the file is not a language model, "
            "or was cut while it was written"
        )
    return architecture


def _unused_blocks(metadata: Mapping[str, Any], architecture: str, program: Program) -> range:
    """The blocks of multi-token prediction, which follow the model's own and are not run."""
    source = Source(metadata, architecture, {})
    if not source.metadata.has("nextn_predict_layers"):
        return range(0)
    return range(program.n_layers, source.metadata.integer("block_count", maximum=MAX_LAYERS))


def _refuse_unknown(made_by: Family, program: Program, tensors: Mapping[str, Shape], unused: range) -> None:
    """Refuse a tensor that the program does not read: ignoring it would give wrong output silently."""
    extra = [name for name in tensors if name not in program.weights]
    patterns = [
        re.compile(pattern)
        for pattern in (r"rope_(freqs|factors_long|factors_short)\.weight", *made_by.ignored)
    ] + [re.compile(rf"blk\.{block}\..*") for block in unused]
    for name in extra:
        if not any(pattern.fullmatch(name) for pattern in patterns):
            raise UnsupportedError(
                f"tensor {name!r} is in the file, but the {program.family} family does not use it; "
                "the model is a variant that edgellm does not implement"
            )
