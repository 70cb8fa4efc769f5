"""Importance of the columns of weights: the mean square of the activations they are multiplied with.

The square error of an output is the sum over columns of the weight's square error times the square of the
input, where inputs of different columns are independent; so these means weigh the search for scales. They
are collected by running a text through the unquantized model (calibration.py). Files have llama.cpp's GGUF
form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import FormatError, UsageError
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType, ValueType
from edgellm.gguf.writer import GGUFWriter
from edgellm.tokenizer import Tokenizer

Floats = NDArray[np.float32]
# Tokens of a chunk, as files count them.
CHUNK_TOKENS = 256
# A column that a text never uses still counts this share of the mean one.
_FLOOR = 1e-3


@dataclass(slots=True)
class Statistics:
    """Sums of squares (n_matrices, n_in) and numbers of rows (n_matrices,) by the names of weights."""

    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def importance(self) -> dict[str, Floats]:
        """Weights of columns with a mean of 1: (n_in,) of a matrix, (n_matrices, n_in) of a stack."""
        found = {}
        for name, sums in self.sums.items():
            means = sums / np.maximum(self.counts[name], 1)[:, None]
            scale = means.mean(axis=1, keepdims=True)
            relative = np.where(scale > 0, means / np.where(scale > 0, scale, 1), 1) + _FLOOR
            found[name] = (relative[0] if len(relative) == 1 else relative).astype(np.float32)
        return found


def text_ids(path: Path, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text file; UsageError if it cannot be read."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error}); choose another file") from None
    return tokenizer.encode(text)


def write_statistics(path: Path, found: Statistics, dataset: str) -> None:
    """Write statistics as a GGUF file of type `imatrix`."""
    with GGUFWriter(path) as writer:
        writer.set("general.type", "imatrix")
        writer.set("imatrix.datasets", [dataset], ValueType.STRING)
        n_rows = max((int(counts.max()) for counts in found.counts.values()), default=0)
        writer.set("imatrix.chunk_count", -(-n_rows // CHUNK_TOKENS), ValueType.UINT32)
        writer.set("imatrix.chunk_size", CHUNK_TOKENS, ValueType.UINT32)
        for name, sums in found.sums.items():
            writer.add_tensor(f"{name}.in_sum2", GGMLType.F32, sums.shape)
            writer.add_tensor(f"{name}.counts", GGMLType.F32, (len(sums), 1))
        writer.write_header()
        for name, sums in found.sums.items():
            for suffix, values in (("in_sum2", sums), ("counts", found.counts[name])):
                raw = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
                writer.write_tensor(f"{name}.{suffix}", raw)
        writer.finish()


def read_statistics(path: Path) -> Statistics:
    """Read statistics in that form; FormatError for a file that is none."""
    found = Statistics()
    with GGUFFile.open(path) as file:
        if file.metadata.get("general.type") != "imatrix":
            raise FormatError(
                f"{path}: 'general.type' is {str(file.metadata.get('general.type'))[:40]!r}, expected "
                "'imatrix'; make one with `edgellm eval imatrix`"
            )
        for key, info in file.tensors.items():
            name, _, suffix = key.rpartition(".")
            if suffix not in ("in_sum2", "counts") or info.type != GGMLType.F32:
                raise FormatError(
                    f"{path}: tensor {key[:80]!r} is unknown, expected in_sum2 and counts of weights in F32; "
                    "make the file anew"
                )
            values = file.data(key).view("<f4").astype(np.float64)
            if not np.isfinite(values).all() or (values < 0).any():
                raise FormatError(
                    f"{path}: tensor {key[:80]!r} is damaged, expected sums of squares; make it anew"
                )
            if suffix == "in_sum2":
                found.sums[name] = values.reshape(-1, info.shape[-1])
            else:
                found.counts[name] = values.reshape(-1)
    for name, sums in found.sums.items():
        if len(found.counts.get(name, ())) != len(sums):
            raise FormatError(f"{path}: the counts of {name[:80]!r} are missing; make the file anew")
    return found


def check_fits(importance: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """FormatError if importances are of another model than the tensors with these shapes."""
    for name, values in importance.items():
        shape = shapes.get(name)
        if shape is None or values.shape[-1] != shape[-1] or (values.ndim == 2 and len(values) != shape[0]):
            raise FormatError(
                f"{path}: importances of {name[:80]!r} have shape {values.shape}, the model's tensor has "
                f"{shape}; they are of another model"
            )
