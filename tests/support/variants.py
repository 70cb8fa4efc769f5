"""Variants of the families: configs of many kinds, with the logits that transformers gives for them.

The weights are not stored: both sides draw them by the same rule. `tests/make_variants.py` writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).resolve().parents[1] / "data" / "variants.npz"
N_TOKENS = 32
# Rows at the end of the text whose logits are kept.
N_ROWS = 3
N_VOCAB = 128


@dataclass(frozen=True)
class Variant:
    """One checkpoint: its config, also as transformers writes it, its tensors' shapes, the logits to give."""

    name: str
    seed: int
    config: dict[str, Any]
    saved: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    logits: NDArray[np.float32]


@cache
def variants() -> dict[str, Variant]:
    """All variants by name."""
    with np.load(PATH) as arrays:
        cases = json.loads(str(arrays["cases"]))
        return {
            case["name"]: Variant(
                case["name"],
                case["seed"],
                case["config"],
                case["saved"],
                {name: tuple(shape) for name, shape in case["shapes"].items()},
                arrays[case["name"]],
            )
            for case in cases
        }


def token_ids(seed: int) -> list[int]:
    """The text of a variant."""
    ids: list[int] = np.random.default_rng(seed).integers(3, N_VOCAB, N_TOKENS).tolist()
    return ids


def number(source: Mapping[str, NDArray[np.float32]]) -> Callable[[str], float]:
    """Reader of a checkpoint's tensors of one value."""
    return lambda name: float(source[name].reshape(-1)[0])


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Weights that let every part of a layer matter."""
    rng = np.random.default_rng(seed)
    for name in sorted(shapes):
        drawn = rng.standard_normal(shapes[name])
        if name.endswith("A_log"):
            drawn = np.abs(drawn)
        elif name.endswith("act_fn.eps"):
            drawn = np.full(shapes[name], -1e-6)
        elif "norm" in name or name.endswith("layer_scalar"):
            drawn = 1 + 0.2 * drawn
        elif drawn.ndim >= 2:
            drawn *= 1.2 / np.sqrt(drawn.shape[-1])
        else:
            drawn *= 0.2
        yield name, drawn.astype(np.float32)
