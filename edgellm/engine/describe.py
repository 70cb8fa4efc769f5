"""Description of a model file, read without loading it."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgellm.families import build
from edgellm.gguf.file_types import file_type_name
from edgellm.gguf.metadata import Metadata, Value
from edgellm.gguf.reader import GGUFFile
from edgellm.program.exported import TYPE_KEY, exported_bytes, is_exported


@dataclass(frozen=True, slots=True)
class Description:
    """Summary of a model file.

    n_bytes: size of the file with all its parts. quantization: the recipe, or else the type that holds the
    most values. fingerprint: 64 hexadecimal digits that change with the file's place, size or modification
    time. generates: True if the model continues texts, False if it only makes embeddings. metadata: ready for
    JSON; arrays and numbers that are not finite are None.
    """

    family: str
    n_bytes: int
    n_parameters: int
    quantization: str
    modified_at: datetime
    fingerprint: str
    generates: bool
    license: str
    metadata: Mapping[str, Value | None]

    @property
    def size_label(self) -> str:
        """Number of parameters in the usual form: 134.52M, 7.24B."""
        if self.n_parameters >= 10**9:
            return f"{self.n_parameters / 1e9:.2f}B"
        return f"{self.n_parameters / 1e6:.2f}M"


def describe(path: Path) -> Description:
    """Read a file's description; raises as `GGUFFile.open` and `families.build` do."""
    status = path.stat()
    return _describe(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _describe(path: Path, n_bytes: int, changed_ns: int) -> Description:
    with GGUFFile.open(path, guarded=True) as file:
        values: dict[str, int] = {}
        for info in file.tensors.values():
            values[info.type.name] = values.get(info.type.name, 0) + math.prod(info.shape)
        metadata = file.metadata
        program = build(metadata, {name: info.shape for name, info in file.tensors.items()})
        n_bytes = sum(part.stat().st_size for part in file.paths)
        if is_exported(metadata):
            kind = str(metadata.get(TYPE_KEY, "ONNX"))
            values = {kind: sum(math.prod(shape) for shape in program.weights.values())}
            n_bytes += exported_bytes(path)
        return Description(
            family=program.family,
            n_bytes=n_bytes,
            n_parameters=sum(values.values()),
            quantization=file_type_name(metadata.get("general.file_type"))
            or max(values, key=lambda name: values[name], default="unknown"),
            modified_at=datetime.fromtimestamp(changed_ns / 1e9, UTC),
            fingerprint=hashlib.sha256(f"{path}\0{n_bytes}\0{changed_ns}".encode()).hexdigest(),
            generates=program.logits is not None,
            license=str(metadata.get("general.license", "")),
            metadata={key: _plain(metadata, key) for key in metadata},
        )


def _plain(metadata: Metadata, key: str) -> Value | None:
    if metadata.element_type(key) is not None:
        return None
    value = metadata[key]
    return None if isinstance(value, float) and not math.isfinite(value) else value
