"""Low-rank adapters at run time: their files, their names, and the choice of an answer.

A file is GGUF in llama.cpp's form (general.type "adapter", adapter.type "lora"; for each weight the tensors
NAME.lora_a (rank, n_in) and NAME.lora_b (n_out, rank)), or a folder that PEFT has saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from edgellm.errors import EdgeLLMError, FormatError, ModelError, UnsupportedError, UsageError, show
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.program import Program
from edgellm.program.adapter import Adapter, Half, Update, check_adapter

# A larger factor makes values overflow.
MAX_SCALE = 100.0
# One factor for each adapter of a model, in order; empty if none is used.
Scales: TypeAlias = tuple[float, ...]
# A caller's choice: adapters by name or number with their factors; others are not used.
Choice: TypeAlias = Mapping[str | int, float]


class AdapterFile(NamedTuple):
    """An adapter to load, and its factor in answers that choose no other."""

    path: Path
    scale: float = 1.0


class AdapterInfo(NamedTuple):
    """A loaded adapter: its unique name, its file, its default factor."""

    name: str
    path: Path
    scale: float


def parse_adapter(given: str | Path | tuple[str | Path, float]) -> AdapterFile:
    """FILE, FILE=SCALE or (FILE, scale); UsageError for a scale out of range."""
    if isinstance(given, tuple):
        path, scale = Path(given[0]), given[1]
    else:
        text, equals, number = str(given).rpartition("=")
        if not equals or Path(given).exists():
            return AdapterFile(Path(given))
        path = Path(text)
        try:
            scale = float(number)
        except ValueError:
            raise UsageError(f"lora: {given} is neither a file nor FILE=SCALE with a number.") from None
    return AdapterFile(path, _factor(scale, str(path)))


def name_adapters(files: Sequence[AdapterFile]) -> tuple[AdapterInfo, ...]:
    """Adapters under the names of their files, made unique."""
    found: list[AdapterInfo] = []
    for file in files:
        stem = file.path.stem if file.path.suffix == ".gguf" else file.path.resolve().name
        name, number = stem, 2
        while any(info.name == name for info in found):
            name, number = f"{stem}-{number}", number + 1
        found.append(AdapterInfo(name, file.path, file.scale))
    return tuple(found)


def choose_scales(adapters: Sequence[AdapterInfo], choice: Choice | None) -> Scales:
    """Factor of each adapter for one answer; None: the default ones. UsageError for an unknown adapter."""
    if choice is None:
        scales = [info.scale for info in adapters]
    else:
        scales = [0.0] * len(adapters)
        for key, value in choice.items():
            scales[_index(adapters, key)] = _factor(value, str(key))
    return tuple(scales) if any(scales) else ()


def _index(adapters: Sequence[AdapterInfo], key: str | int) -> int:
    for i, info in enumerate(adapters):
        if key == info.name or (key == i and not isinstance(key, bool)):
            return i
    known = ", ".join(f"{i} ({info.name})" for i, info in enumerate(adapters)) or "none"
    raise UsageError(f"lora names the adapter {str(key)[:80]!r}; the loaded ones are: {known}.")


def _factor(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_SCALE:
        raise UsageError(
            f"lora: the scale of {what[:80]} is {show(value)}; it must be a number from {-MAX_SCALE:g} "
            f"to {MAX_SCALE:g}."
        )
    return float(value)


def read_adapter(path: Path, base: GGUFFile, program: Program) -> Adapter:
    """Read an adapter for a base model, checked against its program.

    Raises FileError, FormatError, ModelError or UnsupportedError for one that is damaged, belongs to another
    model, or is of a kind that edgellm does not implement.
    """
    try:
        if path.is_dir():
            # PEFT's names and row orders are the checkpoint's; only the converter maps them to the file's.
            from edgellm.convert.adapter import base_of_metadata, read_folder

            return read_folder(path, base_of_metadata(base.metadata, program))
        with GGUFFile.open(path, guarded=True) as file:
            adapter = Adapter(_updates(file, base.metadata.get("general.architecture")))
            if file.damaged:
                raise FormatError("the file was shortened or overwritten while it was read; try again")
        check_adapter(adapter, program)
    except EdgeLLMError as error:
        message = str(error)
        raise type(error)(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return adapter


def _updates(file: GGUFFile, architecture: object) -> dict[str, Update]:
    metadata = file.metadata
    for key, expected in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", architecture),
    ):
        if metadata.get(key) != expected:
            raise ModelError(
                f"metadata {key!r} is {str(metadata.get(key, 'missing'))[:80]!r}, expected "
                f"{str(expected)!r}; give a LoRA adapter of this model"
            )
    if "adapter.alora.invocation_tokens" in metadata:
        raise UnsupportedError("an activated LoRA, which begins at certain tokens; expected a plain one")
    alpha: Any = metadata.get("adapter.lora.alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise FormatError(f"metadata 'adapter.lora.alpha' is {str(alpha)[:80]!r}, expected a number")
    halves: dict[str, dict[str, Half]] = {}
    for name in file.tensors:
        weight, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or len(file.tensors[name].shape) != 2:
            raise UnsupportedError(
                f"tensor {name[:80]!r} is no matrix NAME.lora_a or NAME.lora_b, expected those only"
            )
        halves.setdefault(weight, {})[half] = _values(file, name)
    if not halves:
        raise ModelError("it holds no tensors, expected those of an adapter; fetch it again")
    updates = {}
    for weight, pair in halves.items():
        if len(pair) != 2:
            raise ModelError(
                f"{weight[:80]!r} has only {next(iter(pair))}, expected lora_a and lora_b; fetch it again"
            )
        a, b = pair["lora_a"], pair["lora_b"]
        # An alpha of 0 means no scaling of the product.
        updates[weight] = Update(a, b, alpha / max(1, len(a)) if alpha else 1.0)
    return updates


def _values(file: GGUFFile, name: str) -> Half:
    """Copy of a tensor's values: F16 unchanged, every other type as float32."""
    import numpy as np

    from edgellm.quant import decode

    info = file.tensors[name]
    if info.type == GGMLType.F16:
        return file.data(name).view("<f2").astype(np.float16).reshape(info.shape)
    return decode(info.type, file.data(name), info.shape)
