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

from tests.support.checkpoints import VOCAB, save, write_settings

PATH = Path(__file__).resolve().parents[1] / "data" / "variants.npz"
N_TOKENS = 32
# Rows at the end of the text whose logits are kept.
N_ROWS = 3
N_VOCAB = 128
_EMBEDDINGS = (
    *("embed_tokens.weight", "embed_tokens_per_layer.weight", "word_embeddings.weight", "wte.weight"),
    *("embeddings.weight", "embed_in.weight", "lm_head.weight", "lm_head.bias", "embed_out.weight"),
    "shared_head.head.weight",
)


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


def write_variant(variant: Variant, folder: Path) -> Path:
    """The variant's checkpoint in `folder`, with as many tokens as the tokenizer has."""
    config: dict[str, Any] = json.loads(json.dumps(variant.config))
    for values in (config, config.get("text_config", {})):
        for key in values.keys() & {"vocab_size", "vocab_size_per_layer_input"}:
            values[key] = VOCAB
    shapes = {
        name: (VOCAB, *shape[1:]) if name.endswith(_EMBEDDINGS) and shape[:1] == (N_VOCAB,) else shape
        for name, shape in variant.shapes.items()
    }
    write_settings(folder, config | {"bos_token_id": 0, "eos_token_id": 1})
    drawn = weights(shapes, variant.seed)
    save(folder / "model.safetensors", {name: ("F32", array) for name, array in drawn})
    return folder
