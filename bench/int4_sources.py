"""Unquantized models for `int4.py`, made of files that are quantized.

A quantized model's weights lie on the grid of its format, where encoding them again loses nothing. So columns
are multiplied by factors that the columns' inputs are divided by: norms before matrices, rows of `up` before
columns of `down`, rows of values before columns of the attention's output. The function is the same, the grid
is gone. Zero channels widen a model to whole super-blocks of 256.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType, ValueType
from edgellm.gguf.writer import GGUFWriter
from edgellm.quant import native

Floats = NDArray[np.float32]
# Logarithm of the largest factor.
SPREAD = 0.25
SUPER_BLOCK = 256


class _Model:
    """Weights and numbers of a llama or gemma3 file."""

    def __init__(self, path: Path) -> None:
        with GGUFFile.open(path) as file:
            self.metadata = file.metadata
            self.architecture = str(file.metadata["general.architecture"])
            self.weights = {
                name: native.decode_values(info.type, file.data(name), info.shape, threads=1).copy()
                for name, info in file.tensors.items()
            }
        self.width = self.number("embedding_length")
        self.n_layers = self.number("block_count")
        self.n_heads = self.number("attention.head_count")
        shared = f"{self.architecture}.attention.head_count_kv" in self.metadata
        self.n_kv_heads = self.number("attention.head_count_kv") if shared else self.n_heads
        self._rng = np.random.default_rng(7)

    def number(self, key: str) -> int:
        return int(str(self.metadata[f"{self.architecture}.{key}"]))

    def factors(self, n: int) -> Floats:
        return np.exp(self._rng.uniform(-SPREAD, SPREAD, n)).astype(np.float32)

    def leave_grid(self) -> None:
        """Multiply columns, and divide what they are multiplied with."""
        w = self.weights
        for layer in range(self.n_layers):
            b = f"blk.{layer}."
            for norm, readers in (("attn", ("attn_q", "attn_k", "attn_v")), ("ffn", ("ffn_gate", "ffn_up"))):
                factors = self.factors(self.width)
                w[f"{b}{norm}_norm.weight"] /= factors
                for reader in readers:
                    w[f"{b}{reader}.weight"] *= factors
            factors = self.factors(len(w[f"{b}ffn_up.weight"]))
            w[f"{b}ffn_up.weight"] /= factors[:, None]
            w[f"{b}ffn_down.weight"] *= factors
            factors = self.factors(len(w[f"{b}attn_v.weight"]))
            w[f"{b}attn_v.weight"] /= factors[:, None]
            heads = factors.reshape(self.n_kv_heads, -1)
            heads = np.repeat(heads, self.n_heads // self.n_kv_heads, axis=0)
            w[f"{b}attn_output.weight"] *= heads.reshape(-1)

    def widen(self) -> dict[str, int]:
        """Add zero channels, and heads where they are no super-blocks; returns the metadata's changes."""
        wide = -(-self.width // SUPER_BLOCK) * SUPER_BLOCK
        more, gain = wide - self.width, np.float32(np.sqrt(self.width / wide))
        changes = {f"{self.architecture}.embedding_length": wide}
        size = len(self.weights["blk.0.attn_q.weight"]) // self.n_heads
        new_heads = 0
        if self.n_heads * size % SUPER_BLOCK:
            new_heads = (wide - self.n_heads * size) // size // self.n_kv_heads
            changes[f"{self.architecture}.attention.head_count"] = self.n_heads + new_heads * self.n_kv_heads

        def heads(rows: Floats) -> Floats:
            split = rows.reshape(self.n_kv_heads, self.n_heads // self.n_kv_heads, size, -1)
            padded = np.pad(split, ((0, 0), (0, new_heads), (0, 0), (0, 0)))
            return padded.reshape(-1, rows.shape[-1])

        for name, values in self.weights.items():
            kind = name.rpartition("blk.")[2].partition(".")[2]
            if values.ndim == 1:
                if len(values) == self.width:
                    # The mean square of a norm's input is over zeros, too.
                    values = np.pad(values, (0, more)) * gain
            elif kind in ("attn_output.weight", "ffn_down.weight"):
                columns = values.T if kind == "ffn_down.weight" else heads(np.ascontiguousarray(values.T))
                values = np.pad(columns.T, ((0, more), (0, 0)))
            else:
                values = np.pad(heads(values) if kind == "attn_q.weight" else values, ((0, 0), (0, more)))
            if self.architecture == "gemma3" and name == "token_embd.weight":
                values = values * gain  # the model multiplies by the root of its width
            if self.architecture == "gemma3" and name == "output_norm.weight":
                values = values / gain  # of the embedding that is the head, too
            self.weights[name] = np.ascontiguousarray(values, np.float32)
        return changes

    def write(self, path: Path, changes: dict[str, int]) -> None:
        """Write matrices as F16, vectors as F32."""
        with GGUFWriter(path) as writer:
            for key, value in self.metadata.items():
                if not key.startswith(("split.", "edgellm.", "general.alignment", "general.file_type")):
                    kind = self.metadata.element_type(key) or self.metadata.value_type(key)
                    writer.set(key, changes.get(key, value), kind)
            writer.set("general.file_type", 1, ValueType.UINT32)
            for name, values in self.weights.items():
                writer.add_tensor(name, GGMLType.F16 if values.ndim == 2 else GGMLType.F32, values.shape)
            writer.write_header()
            for name, values in self.weights.items():
                raw = values.astype(np.float16) if values.ndim == 2 else values
                writer.write_tensor(name, np.ascontiguousarray(raw).reshape(-1).view(np.uint8))
            writer.finish()


def make_source(path: Path, out: Path, *, pad: bool) -> None:
    """Write the model of a quantized file as F16, off the file's grid."""
    model = _Model(path)
    model.leave_grid()
    model.write(out, model.widen() if pad else {})
