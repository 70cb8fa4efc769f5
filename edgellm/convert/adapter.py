"""PEFT adapters in GGUF's terms: the weights they change by their names in a GGUF file, rows in its order.

A family may cut or reorder the rows of a matrix: the rows of B follow. It may reorder columns: those of A
follow. The product B A then fits the file's matrix as it fitted the checkpoint's. Other rearrangements are
refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import Delta, read_adapter
from edgellm.convert.pipeline import FilePlan, Pair, Tensor
from edgellm.errors import EdgeLLMError, ModelError, UnsupportedError
from edgellm.families.checkpoint import Part, canonical, same_weight
from edgellm.families.registry import build, model_type, parts
from edgellm.families.registry import plan as plan_family
from edgellm.families.transforms import (
    Chain,
    Concat,
    Copy,
    GroupRows,
    Half,
    Pairs,
    Tile,
    Transform,
    Transpose,
)
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType, ValueType
from edgellm.program import Program
from edgellm.program.adapter import Adapter, Update, check_adapter, linear_weights

Floats = NDArray[np.float32]
# Formats that adapters are written in: their ranks are smaller than the blocks of the others.
TYPES = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)

# config.json's key -> GGUF's, as far as the names and row orders of matrices depend on them.
_CONFIG = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "head_dim": "attention.key_length",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
}


# A head that is the embedding too has no place of its own in the plan; it is refused with the others later.
_HEADS = ("lm_head.weight", "embed_out.weight")


class Base(NamedTuple):
    """The model that an adapter belongs to: how its checkpoints become files, and its program."""

    architecture: str
    parts: tuple[Part, ...]
    program: Program


def base_of_folder(folder: Path) -> Base:
    """The base model as a checkpoint; raises as the conversion of that checkpoint would."""
    checkpoint = Checkpoint(folder)
    try:
        planned = plan_family(checkpoint.planned_config(), checkpoint.tensors.shapes)
        metadata = {"general.architecture": planned.architecture, **planned.metadata}
        program = build(metadata, {tensor.name: tensor.shape for tensor in planned.tensors})
        return Base(planned.architecture, parts(checkpoint.config), program)
    except EdgeLLMError as error:
        raise type(error)(f"{folder}: {error}") from None


def base_of_file(file: GGUFFile) -> Base:
    """The base model as a GGUF file; raises as `build` and `base_of_metadata`."""
    try:
        program = build(file.metadata, {name: info.shape for name, info in file.tensors.items()})
        return base_of_metadata(file.metadata, program)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None


def base_of_metadata(metadata: Mapping[str, Any], program: Program) -> Base:
    """The base model by its file's metadata.

    UnsupportedError if the names that its checkpoint has for the weights cannot be known from them.
    """
    architecture = str(metadata.get("general.architecture"))
    try:
        found = parts(_config(architecture, metadata))
        unknown = linear_weights(program) - {part.name for part in found}
        if unknown:
            raise ModelError(f"nothing is known of {min(unknown)!r}")
    except EdgeLLMError as error:
        raise UnsupportedError(
            f"the model's file does not tell what its checkpoint calls its weights ({error}); give the "
            "checkpoint: `edgellm convert ADAPTER OUT.gguf --base FOLDER`"
        ) from None
    return Base(architecture, found, program)


def _config(architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    config = {key: metadata.get(f"{architecture}.{name}") for key, name in _CONFIG.items()}
    return config | {"model_type": model_type(architecture, mixture=bool(config["num_experts"]))}


def read_folder(folder: Path, base: Base) -> Adapter:
    """A PEFT adapter for a base model, checked against its program; raises as `lora.read_adapter`, too."""
    try:
        adapter = Adapter(dict(updates_of(read_adapter(folder), base)))
        check_adapter(adapter, base.program)
    except EdgeLLMError as error:
        message = str(error)
        raise type(error)(message if message.startswith(str(folder)) else f"{folder}: {message}") from None
    return adapter


def updates_of(deltas: Mapping[str, Delta], base: Base) -> Iterator[tuple[str, Update]]:
    """The updates of the file's weights that belong to deltas of the checkpoint's; raises as read_folder."""
    for name, delta in deltas.items():
        places = [part for part in base.parts if any(same_weight(name, source) for source in part.sources)]
        if not places and canonical(name) in _HEADS:
            places = [Part("output.weight", (name,))]
        if not places:
            raise ModelError(
                f"it changes {name[:80]!r}, which a {base.architecture} model does not have; "
                "it is another model's"
            )
        for part in {part.name: part for part in places}.values():
            yield part.name, _update(name, delta, part)


def _update(name: str, delta: Delta, part: Part) -> Update:
    make: Transform = part.make
    turned = delta.transposed
    if isinstance(make, Transpose):
        make, turned = Copy(), not turned
    of_columns = isinstance(make, Tile) and make.axis == 1
    if turned or len(part.sources) > 1 or not (of_columns or _is_of_rows(make)):
        raise UnsupportedError(
            f"it changes {name[:80]!r}, which a GGUF file holds in a form that no adapter can follow; "
            "merge it with `edgellm convert BASE OUT --lora`"
        )
    a, b = delta.a, delta.b
    try:
        make.shape([a.shape if of_columns else b.shape])
    except ValueError as error:
        half = "A" if of_columns else "B"
        raise ModelError(
            f"{half} of {name[:80]!r} does not fit the model: {error}; it is another model's"
        ) from None
    a, b = (make.apply([a]), b) if of_columns else (a, make.apply([b]))
    return Update(np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32), delta.scale)


def _is_of_rows(make: Transform) -> bool:
    """True if a step only chooses and orders rows."""
    if isinstance(make, Concat):
        return all(map(_is_of_rows, make.parts))
    if isinstance(make, Chain):
        return all(map(_is_of_rows, make.steps))
    if isinstance(make, (Half, Tile)):
        return make.axis == 0
    return isinstance(make, (Copy, Pairs, GroupRows))


@dataclass(frozen=True, slots=True)
class _Matrix:
    values: Floats

    def pieces(self) -> Iterator[Floats]:
        yield self.values


def plan_adapter(folder: Path, base: Base, kind: GGMLType, *, name: str | None = None) -> FilePlan:
    """The GGUF file of a PEFT adapter, as llama.cpp reads it.

    A file has one alpha: where a module's scale is not alpha over its rank, its B is multiplied.
    """
    updates = read_folder(folder, base).updates
    alpha, _ = Counter(np.float32(u.scale * len(u.a)).item() for u in updates.values()).most_common(1)[0]
    alpha = alpha or 1.0  # 0 would stand for none
    metadata = {
        "general.architecture": Pair(base.architecture),
        "general.type": Pair("adapter"),
        "general.name": Pair(name or folder.resolve().name),
        "adapter.type": Pair("lora"),
        "adapter.lora.alpha": Pair(alpha, ValueType.FLOAT32),
    }
    tensors = []
    for weight, update in updates.items():
        factor = update.scale * len(update.a) / alpha
        b = update.b if math.isclose(factor, 1.0, rel_tol=1e-6) else update.b * np.float32(factor)
        for half, values in (("lora_a", update.a), ("lora_b", b)):
            matrix = _Matrix(np.asarray(values, np.float32))
            tensors.append(Tensor(f"{weight}.{half}", values.shape, kind, matrix))
    inputs = (folder / "adapter_config.json", folder / "adapter_model.safetensors")
    return FilePlan(metadata, tensors, inputs=inputs)
