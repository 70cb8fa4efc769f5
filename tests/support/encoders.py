"""Encoders with drawn weights, and what they make of texts in transformers (tests/make_encoders.py)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PATH = Path(__file__).resolve().parents[1] / "data" / "encoders.npz"
_LINES = resources.files("edgellm.convert").joinpath("sample.txt").read_text("utf-8").split("\n")
_WORDS = " ".join(line for line in _LINES if line.isascii()).split()
# Texts of 1 to about 50 words, so that some are longer than a local window.
TEXTS = tuple(" ".join(_WORDS[i * 7 % 40 : i * 7 % 40 + 1 + i]) for i in range(50))
# Matrices over the embedding of one of the cases.
DENSE: dict[str, tuple[int, ...]] = {"2_Dense": (96, 64), "3_Dense": (64, 96)}
# Prompts of the models that pool the last token, as Qwen3-Embedding has them.
PROMPTS = {
    "query": "Instruct: Given a web search query, retrieve relevant passages\nQuery:",
    "document": "",
}


@dataclass(frozen=True)
class Encoder:
    """One case: its checkpoint, and embeddings (50, width) or scores (50, 1) of the texts.

    queries: embeddings of the texts after the prompt "query".
    """

    name: str
    config: dict[str, Any]
    saved: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    seed: int
    pooling: str
    tokenizer: dict[str, Any]
    special: dict[str, str]
    expected: Floats
    queries: Floats | None

    def write(self, folder: Path) -> Path:
        """Write the checkpoint into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer.json").write_text(json.dumps(self.tokenizer))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.special))
        save(folder / "model.safetensors", drawn(self.shapes, self.seed))
        modules = ["Transformer"] if self.pooling == "rank" else ["Transformer", "Pooling"]
        if self.name == "gemma-dense":
            for name, weight in drawn(DENSE, 99).items():
                modules.append("Dense")
                (folder / name).mkdir(exist_ok=True)
                activation = {"activation_function": "torch.nn.modules.linear.Identity", "bias": False}
                (folder / name / "config.json").write_text(json.dumps(activation))
                save(folder / name / "model.safetensors", {"linear.weight": weight})
        if self.pooling != "rank":
            (folder / "1_Pooling").mkdir(exist_ok=True)
            (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": self.pooling}))
            listed = [
                {"idx": i, "type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}" if i else ""}
                for i, kind in enumerate(modules)
            ]
            (folder / "modules.json").write_text(json.dumps(listed))
        if self.queries is not None:
            settings = {"prompts": PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"}
            (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
        return folder


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Floats]:
    """Weights that let every part of a layer matter."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        values = rng.standard_normal(shapes[name])
        if values.ndim >= 2:
            values *= 1.2 / np.sqrt(values.shape[-1])
        elif "norm" in name.lower() and name.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values *= 0.2
        weights[name] = values.astype(np.float32)
    return weights


def save(path: Path, weights: Mapping[str, Floats]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {}
    offset = 0
    for name, array in weights.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in weights.values()))


@cache
def encoders() -> dict[str, Encoder]:
    """All cases by name."""
    with np.load(PATH) as arrays:
        stored = json.loads(arrays["cases"].tobytes())
        return {
            name: Encoder(
                name,
                case["config"],
                case["saved"],
                {key: tuple(shape) for key, shape in case["shapes"].items()},
                case["seed"],
                case["pooling"],
                stored["tokenizers"][case["tokenizer"]],
                stored["special"][case["tokenizer"]],
                arrays[name],
                arrays.get(f"{name}/query"),
            )
            for name, case in stored["cases"].items()
        }
