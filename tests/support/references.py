"""Reference cases: tiny checkpoints with the logits that the original implementation gives.

Some travel with the repository, their GGUF files packed by xz; the others are read from the shared
folder, where a case is a folder `references/<case>`.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from tests.support.paths import ROOT, shared

COMMITTED = ROOT / "tests" / "data" / "references"
PACKED = "official-f32.gguf.xz"

# Every case that has a GGUF file written by the reference converter.
OFFICIAL = (
    "cohere2",
    "gemma2",
    "gemma3",
    "granite",
    "hunyuan",
    "lfm2",
    "llama",
    "llama2",
    "llama3",
    "mamba2",
    "mistral",
    "mixtral",
    "olmo2",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "stablelm",
    "starcoder2",
)
# The other cases, which are checkpoints with logits only.
CHECKPOINTS_ONLY = (
    "deepseek_v2",
    "ernie4_5",
    "exaone4",
    "gemma4",
    "glm4",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "mistral_swa",
    "phi3",
    "qwen3_5",
    "qwen3_next",
)


@dataclass(frozen=True)
class Reference:
    """One case: `token_ids` (n_tokens,) of `text` and the `logits` (n_tokens, n_vocab) they must give."""

    name: str
    text: str
    token_ids: NDArray[np.int32]
    logits: NDArray[np.float32]

    def check(self, logits: NDArray[np.float32], tolerance: float = 0.01) -> None:
        """Fail unless `logits` are within `tolerance` and choose the same token everywhere."""
        worst = float(np.abs(logits - self.logits).max())
        assert worst < tolerance, f"{self.name}: logits differ by {worst}"
        assert np.array_equal(logits.argmax(axis=1), self.logits.argmax(axis=1)), (
            f"{self.name}: other top tokens"
        )


def reference(name: str) -> Reference:
    """The expected logits of a case; skips the test where only the shared folder would have it."""
    path = COMMITTED / name / "reference.npz"
    if not path.exists():
        path = shared(f"references/{name}/reference.npz")
    with np.load(path) as arrays:
        return Reference(name, str(arrays["text"]), arrays["token_ids"], arrays["logits"])


def official_gguf(name: str, folder: Path) -> Path:
    """The case's official F32 GGUF file; a packed one is unpacked into `folder`."""
    packed = COMMITTED / name / PACKED
    if not packed.exists():
        return shared(f"references/{name}/official-f32.gguf")
    path = folder / f"{name}.gguf"
    if not path.exists():
        path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def converted_gguf(name: str, folder: Path, kind: str = "F32") -> Path:
    """The case's checkpoint, converted into `folder`; skips the test without the shared folder."""
    path = folder / f"{name}-{kind}.gguf"
    if not path.exists():
        checkpoint = Checkpoint(shared(f"references/{name}/config.json").parent)
        write(plan_conversion(checkpoint, recipe(kind), threads=1), path, threads=1)
    return path


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for unpacked reference files, kept for the session."""
    return tmp_path_factory.mktemp("references")


def shapes(file: GGUFFile) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a file."""
    return {name: info.shape for name, info in file.tensors.items()}


def float_weights(file: GGUFFile) -> Mapping[str, NDArray[np.float32]]:
    """All tensors of an F32 file, copied out of it."""
    weights = {}
    for name, info in file.tensors.items():
        assert info.type == GGMLType.F32, f"{name} is {info.type.name}"
        weights[name] = file.data(name).view("<f4").reshape(info.shape).astype(np.float32)
    return weights


def checkpoint_folder(name: str) -> Path:
    """The case's checkpoint; skips the test where only the shared folder would have it."""
    folder = COMMITTED / name
    return folder if (folder / "config.json").exists() else shared(f"references/{name}")


def checkpoint(name: str) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """The case's config.json and its tensors, widened from BF16."""
    folder = checkpoint_folder(name)
    weights: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        raw = path.read_bytes()
        (n_header,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + n_header])
        header.pop("__metadata__", None)
        for tensor, info in header.items():
            assert info["dtype"] == "BF16"
            start, end = (8 + n_header + offset for offset in info["data_offsets"])
            words = np.frombuffer(raw[start:end], "<u2").astype(np.uint32) << 16
            weights[tensor] = words.view(np.float32).reshape(info["shape"])
    return json.loads((folder / "config.json").read_text()), weights


def adapter_folder(name: str) -> Path:
    """The PEFT adapter of a case, which travels with the repository."""
    return COMMITTED / name / "lora"


def adapter_reference(name: str) -> Reference:
    """The expected logits of a case with its adapter."""
    with np.load(adapter_folder(name) / "reference.npz") as arrays:
        return Reference(f"{name} with adapter", "", arrays["token_ids"], arrays["logits"])
