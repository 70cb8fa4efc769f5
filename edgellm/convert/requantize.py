"""A GGUF file as the source of another one in different formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.pipeline import PIECE_VALUES, FilePlan, Pair, Tensor
from edgellm.convert.recipes import FLOATS, Override, Recipe, file_types, note_of_rows, note_of_source
from edgellm.errors import UnsupportedError
from edgellm.gguf.reader import GGUFFile, TensorInfo
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant import native

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a GGUF file, decoded in pieces of rows."""

    file: GGUFFile
    info: TensorInfo
    threads: int

    def pieces(self) -> Iterator[Floats]:
        layout = LAYOUTS[self.info.type]
        cols = self.info.shape[-1]
        row_bytes = cols // layout.block_size * layout.block_bytes
        raw = self.file.data(self.info.name)
        n_rows = raw.size // row_bytes
        step = max(1, PIECE_VALUES // cols)
        for start in range(0, n_rows, step):
            n = min(step, n_rows - start)
            part = raw[start * row_bytes : (start + n) * row_bytes]
            yield native.decode_values(self.info.type, part, (n, cols), threads=self.threads)
        self.file.release(self.info.name)


def plan_requantization(
    file: GGUFFile,
    chosen: Recipe,
    *,
    threads: int,
    overrides: Sequence[Override] = (),
) -> FilePlan:
    """The plan of the same model in other formats; tensors that are not floats cannot be encoded anew.

    Raises UnsupportedError for a tensor whose format has no decoder here.
    """
    metadata = {
        key: Pair(value, file.metadata.element_type(key) or file.metadata.value_type(key))
        for key, value in file.metadata.items()
        if not key.startswith(("split.", "general.alignment", "edgellm.quality."))
    }
    metadata["general.file_type"] = Pair(chosen.file_type)
    metadata["general.quantization_version"] = Pair(2)
    architecture = file.metadata.get("general.architecture")
    shapes = {name: info.shape for name, info in file.tensors.items()}
    for info in file.tensors.values():
        if info.type in (GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64, GGMLType.F64):
            raise UnsupportedError(
                f"{file.path}: tensor {info.name} is {info.type.name}, expected a format for weights; "
                "this file cannot be quantized"
            )
    types = file_types(chosen, str(architecture), file.metadata, shapes, overrides)
    tensors = [
        Tensor(
            name,
            info.shape,
            types[name],
            StoredTensor(file, info, threads),
            asked=any(pattern.search(name) for pattern, _ in overrides),
        )
        for name, info in file.tensors.items()
    ]
    before = Counter(info.type.name for info in file.tensors.values() if info.type not in FLOATS)
    form = ", ".join(name for name, _ in before.most_common())
    notes = note_of_source(file.path.name, form, before.total(), len(file.tensors))
    notes += note_of_rows(chosen, types, shapes)
    return FilePlan(metadata, tensors, inputs=(file.path,), notes=tuple(notes))
