"""Low-rank adapters as PEFT saves them, merged into a checkpoint's weights as they are read.

Hu et al. 2021, "LoRA" (arXiv 2106.09685); the scale of rank-stabilized adapters: arXiv 2312.03732.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Folder, Tensors
from edgellm.errors import FileError, ModelError, UnsupportedError

Floats = NDArray[np.float32]
_PREFIX = "base_model.model."
_NAME = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True, slots=True)
class Delta:
    """scale * b @ a, to be added to a weight (rows, cols); a: (rank, cols), b: (rows, rank)."""

    a: Floats
    b: Floats
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that this belongs to."""
        rows, cols = len(self.b), self.a.shape[1]
        return (cols, rows) if self.transposed else (rows, cols)

    def rows(self, start: int, stop: int) -> Floats:
        """The rows start .. stop of what is added."""
        left, right = (self.a.T, self.b.T) if self.transposed else (self.b, self.a)
        found: Floats = np.float32(self.scale) * (left[start:stop] @ right)
        return found


def read_adapter(folder: Path) -> dict[str, Delta]:
    """The deltas of a PEFT adapter by the names of the checkpoint's weights.

    Raises FileError for a folder that holds no adapter, UnsupportedError for kinds other than plain LoRA,
    ModelError for matrices that do not belong together.
    """
    files = Folder(folder)
    config = files.json("adapter_config.json")
    path = folder / "adapter_model.safetensors"
    if config is None or not path.is_file():
        raise FileError(
            f"{folder}: expected adapter_config.json and adapter_model.safetensors of a PEFT "
            "adapter; check the path"
        )
    _refuse_unsupported(folder, config)
    tensors = Tensors([path])
    halves: dict[str, dict[str, Floats]] = {}
    for name in tensors.shapes:
        found = _NAME.fullmatch(name)
        if found is None or len(tensors.shapes[name]) != 2:
            raise UnsupportedError(
                f"{path}: tensor {name[:80]!r} is not a matrix A or B of a linear layer; "
                "only these can be merged"
            )
        module = found.group(1).removeprefix(_PREFIX)
        halves.setdefault(module, {})[found.group(2)] = tensors.read(name, 1)
    deltas = {}
    for module, parts in halves.items():
        if set(parts) != {"A", "B"} or len(parts["A"]) != parts["B"].shape[1]:
            raise ModelError(f"{path}: A and B of {module[:80]!r} do not belong together; download it again")
        rank = len(parts["A"])
        scale = _scale(config, module, rank)
        deltas[f"{module}.weight"] = Delta(
            parts["A"], parts["B"], scale, config.get("fan_in_fan_out") is True
        )
    return deltas


def _refuse_unsupported(folder: Path, config: Mapping[str, Any]) -> None:
    for key, allowed in (
        ("peft_type", ("LORA",)),
        ("use_dora", (None, False)),
        ("bias", (None, "none")),
        ("modules_to_save", (None, [])),
    ):
        if config.get(key) not in allowed:
            raise UnsupportedError(
                f"{folder / 'adapter_config.json'}: {key!r} is {str(config.get(key))[:80]!r}, expected "
                f"{allowed[-1]!r}; only plain LoRA adapters can be merged"
            )


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha over the rank, or over its root where the adapter is rank-stabilized."""
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", module):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(f"adapter_config.json: 'lora_alpha' is {str(alpha)[:80]!r}, expected a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
