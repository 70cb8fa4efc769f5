"""A checkpoint as the source of a GGUF file: its tensors, their formats, its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import PIECE_VALUES, FilePlan, Pair, Tensor
from edgellm.convert.recipes import Override, Recipe, count, file_types, note_of_rows, note_of_source
from edgellm.convert.sentence_transformers import bounded, pooling, prompts
from edgellm.convert.vocabulary import tokenizer_metadata
from edgellm.errors import ModelError
from edgellm.families.checkpoint import CheckpointPlan, PlannedTensor
from edgellm.families.registry import plan as plan_family
from edgellm.families.transforms import Copy
from edgellm.gguf.types import ValueType

Floats = NDArray[np.float32]

# generation_config.json -> general.sampling.*, the defaults of the runtime.
_SAMPLING = {
    "temperature": ("temp", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "repetition_penalty": ("penalty_repeat", float),
}


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """A tensor of the file, made from the checkpoint's."""

    checkpoint: Checkpoint
    planned: PlannedTensor
    threads: int

    def pieces(self) -> Iterator[Floats]:
        if isinstance(self.planned.make, Copy) and len(self.planned.shape) == 2:
            yield from self.checkpoint.tensors.pieces(self.planned.sources[0], PIECE_VALUES, self.threads)
        else:
            values = self.read()
            yield values.reshape(-1, values.shape[-1])

    def read(self) -> Floats:
        """The whole tensor."""
        arrays = [self.checkpoint.tensors.read(name, self.threads) for name in self.planned.sources]
        made = np.ascontiguousarray(self.planned.make.apply(arrays), np.float32)
        if made.size != prod(self.planned.shape):
            raise ModelError(
                f"tensor {self.planned.name} has shape {made.shape}, expected {self.planned.shape}; "
                "the checkpoint does not fit its config"
            )
        return made.reshape(self.planned.shape)


def plan_conversion(
    checkpoint: Checkpoint,
    chosen: Recipe,
    *,
    threads: int,
    name: str | None = None,
    overrides: Sequence[Override] = (),
) -> FilePlan:
    """Plan the GGUF file of a checkpoint.

    Raises UnsupportedError for what edgellm does not implement, ModelError for a checkpoint that does not fit
    its config or whose tokenizer cannot be expressed.
    """
    try:
        planned = bounded(checkpoint, plan_family(checkpoint.planned_config(), checkpoint.tensors.shapes))
        planned = planned.completed(lambda name: float(checkpoint.tensors.read(name, threads).reshape(-1)[0]))
    except ModelError as error:
        raise ModelError(f"{checkpoint.folder}: {error}") from None
    shapes = {tensor.name: tensor.shape for tensor in planned.tensors}
    metadata = _general(checkpoint, planned, chosen, name)
    metadata |= tokenizer_metadata(checkpoint, shapes["token_embd.weight"][0])
    metadata |= _sizes(planned.architecture, shapes)
    types = file_types(chosen, planned.architecture, planned.metadata, shapes, overrides)
    tensors = [
        Tensor(
            tensor.name,
            tensor.shape,
            types[tensor.name],
            CheckpointTensor(checkpoint, tensor, threads),
            asked=any(pattern.search(tensor.name) for pattern, _ in overrides),
        )
        for tensor in planned.tensors
    ]
    form, n_quantized = checkpoint.tensors.quantized
    notes = note_of_source(checkpoint.folder.name, form, n_quantized, len(checkpoint.tensors.shapes))
    notes += note_of_rows(chosen, types, shapes)
    return FilePlan(metadata, tensors, inputs=checkpoint.tensors.files, notes=tuple(notes))


def _general(
    checkpoint: Checkpoint, planned: CheckpointPlan, chosen: Recipe, name: str | None
) -> dict[str, Pair]:
    found: dict[str, Pair] = {
        "general.architecture": Pair(planned.architecture),
        "general.type": Pair("model"),
        "general.name": Pair(name or _title(checkpoint.folder.resolve().name)),
    }
    shapes = {tensor.name: tensor.shape for tensor in planned.tensors}
    n_experts = count(planned.metadata, f"{planned.architecture}.expert_count", 0)
    found["general.size_label"] = Pair(_size_label(shapes, n_experts))
    for key, value in planned.metadata.items():
        found[key] = Pair(value, _kind(value))
    found["general.file_type"] = Pair(chosen.file_type)
    found["general.quantization_version"] = Pair(2)
    return found | pooling(checkpoint, planned.architecture) | prompts(checkpoint) | _sampling(checkpoint)


def _sizes(architecture: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Pair]:
    """Sizes of an encoder's tensors that llama.cpp reads from the metadata, or else refuses the file."""
    found = {}
    if "token_types.weight" in shapes:
        found["tokenizer.ggml.token_type_count"] = Pair(shapes["token_types.weight"][0])
    for part in ("dense_2", "dense_3"):
        if f"{part}.weight" in shapes:
            n_out, n_in = shapes[f"{part}.weight"]
            found[f"{architecture}.{part}_feat_in"] = Pair(n_in)
            found[f"{architecture}.{part}_feat_out"] = Pair(n_out)
    return found


def _kind(value: Any) -> ValueType | None:
    if isinstance(value, list) and value:
        return (
            ValueType.BOOL
            if isinstance(value[0], bool)
            else ValueType.INT32
            if type(value[0]) is int
            else None
        )
    return None


def _title(folder: str) -> str:
    """A folder's name as a model's: words apart, each with a capital."""
    words = re.split(r"[- ]+", folder)
    return (
        " ".join(re.sub(r"(?:^|_)[a-z]", lambda m: m.group().upper(), word) for word in words if word)
        or "Model"
    )


def _size_label(shapes: Mapping[str, tuple[int, ...]], n_experts: int) -> str:
    """The number of parameters as GGUF names it: 107K, 1.5B, or 8x7B for a mixture of experts."""
    total = sum(prod(shape) for shape in shapes.values())
    if not n_experts:
        return _rounded(total)
    experts = sum(prod(shape) for name, shape in shapes.items() if "_exps." in name)
    return f"{n_experts}x{_rounded(total - experts + experts // n_experts)}"


def _rounded(count: int) -> str:
    """Two digits at least, and a letter for the power of a thousand."""
    for power, letter in ((12, "T"), (9, "B"), (6, "M"), (3, "K")):
        if count >= 10**power or letter == "K":
            scaled = count / 10**power
            return f"{scaled:.{max(0, 2 - len(str(round(scaled))))}f}{letter}"
    raise AssertionError


def _sampling(checkpoint: Checkpoint) -> dict[str, Pair]:
    """The generation defaults that the file carries."""
    settings = checkpoint.json("generation_config.json") or {}
    found: dict[str, Pair] = {}
    for key, (name, kind) in _SAMPLING.items():
        value = settings.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[f"general.sampling.{name}"] = Pair(kind(value))
    return found
