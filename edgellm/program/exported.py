"""Models in ONNX form: weights in a folder, with a GGUF file beside them for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm.errors import FormatError
from edgellm.program.ops import Program
from edgellm.program.text import from_text

METADATA_FILE = "edgellm.gguf"
MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
PROGRAM_KEY = "edgellm.onnx.program"
TYPE_KEY = "edgellm.onnx.type"
# Metadata keys of the weights' names, and of their bytes in the data file.
NAMES_KEY = "edgellm.onnx.weight_names"
SIZES_KEY = "edgellm.onnx.weight_bytes"


def is_exported(metadata: Mapping[str, Any]) -> bool:
    """True if the weights are in ONNX form beside the file of this metadata."""
    return PROGRAM_KEY in metadata


def stored_program(metadata: Mapping[str, Any]) -> Program:
    """The program that was exported; FormatError or ModelError if there is none."""
    text = metadata[PROGRAM_KEY]
    if not isinstance(text, str):
        raise FormatError(f"{PROGRAM_KEY} is {str(text)[:80]!r}, expected a program; convert the model again")
    return from_text(text)


def stored_sizes(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each weight; FormatError if the metadata lacks them."""
    names, sizes = metadata.get(NAMES_KEY), metadata.get(SIZES_KEY)
    if not isinstance(names, list) or not isinstance(sizes, list) or len(names) != len(sizes):
        raise FormatError(f"{NAMES_KEY} and {SIZES_KEY} do not belong together; convert the model again")
    return {str(name): int(size) for name, size in zip(names, sizes, strict=True)}


def exported_bytes(path: Path) -> int:
    """Bytes of the graph and the weights beside the metadata at `path`; a missing file counts as 0."""
    files = (path.with_name(name) for name in (MODEL_FILE, DATA_FILE))
    return sum(file.stat().st_size for file in files if file.is_file())
