"""Low-rank adapters as PEFT saves them: deltas of the checkpoint's weights.

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
from edgellm.errors import FileError, ModelError, UnsupportedError, show

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
        """The rows start .. stop of the delta."""
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
                "only these can be used"
            )
        module = found.group(1).removeprefix(_PREFIX)
        values = tensors.read(name, 1)
        if not np.isfinite(values).all():
            raise ModelError(
                f"{path}: tensor {name[:80]!r} holds a value that is not finite; download it again"
            )
        halves.setdefault(module, {})[found.group(2)] = values
    if not halves:
        raise ModelError(f"{path}: holds no matrices, expected A and B of linear layers; download it again")
    deltas = {}
    for module, parts in halves.items():
        if set(parts) != {"A", "B"} or not len(parts["A"]) == parts["B"].shape[1] > 0:
            raise ModelError(f"{path}: A and B of {module[:80]!r} do not belong together; download it again")
        rank = len(parts["A"])
        _check_rank(config, module, rank)
        scale = _scale(config, module, rank)
        deltas[f"{module}.weight"] = Delta(
            parts["A"], parts["B"], scale, config.get("fan_in_fan_out") is True
        )
    return deltas


def is_adapter(folder: Path) -> bool:
    """True if a folder holds a PEFT adapter and no checkpoint."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_named_by(folder: Path) -> str:
    """The base model that an adapter's config names, a folder or a name on the Hub; empty if none."""
    name = (Folder(folder).json("adapter_config.json") or {}).get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _refuse_unsupported(folder: Path, config: Mapping[str, Any]) -> None:
    for key, allowed in (
        ("peft_type", ("LORA",)),
        ("use_dora", (None, False)),
        ("bias", (None, "none")),
        ("modules_to_save", (None, [])),
        ("lora_bias", (None, False)),
        ("use_qalora", (None, False)),
        ("layer_replication", (None, [])),
        ("trainable_token_indices", (None, [], {})),
        ("alora_invocation_tokens", (None, [])),
    ):
        if config.get(key) not in allowed:
            raise UnsupportedError(
                f"{folder / 'adapter_config.json'}: {key!r} is {str(config.get(key))[:80]!r}, expected "
                f"{allowed[-1]!r}; only plain LoRA adapters can be used"
            )
    # These begin by taking their own product out of the weights, so that it does not fit those of the Hub.
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.split("_")[0].lower() in ("pissa", "olora", "corda", "loftq"):
        raise UnsupportedError(
            f"{folder / 'adapter_config.json'}: 'init_lora_weights' is {start[:80]!r}, which changes the "
            "base's weights, expected an adapter of unchanged ones; save it again as a plain LoRA"
        )


def _by_module(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value of the first pattern that fits a module's name or its end, as PEFT chooses it."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise ModelError(f"adapter_config.json: {key!r} is {str(patterns)[:80]!r}, expected an object")
    for pattern, value in patterns.items():
        try:
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                return value
        except re.error:
            raise ModelError(
                f"adapter_config.json: {key!r} has {pattern[:80]!r}, expected a regular expression"
            ) from None
    return default


def _check_rank(config: Mapping[str, Any], module: str, rank: int) -> None:
    expected = _by_module(config, "rank_pattern", module, config.get("r", rank))
    if expected != rank:
        raise ModelError(
            f"adapter_config.json: the rank of {module[:80]!r} is {show(expected)}, and its matrices "
            f"have {rank}; the files do not belong together, download both again"
        )


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha over the rank, or over its root where the adapter is rank-stabilized."""
    alpha = _by_module(config, "alpha_pattern", module, config.get("lora_alpha", rank))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(f"adapter_config.json: 'lora_alpha' is {str(alpha)[:80]!r}, expected a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
