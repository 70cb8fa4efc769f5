"""Copies of model files that a device without Python can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellm.convert.embedded import PREFIX, embedded, missing
from edgellm.errors import EdgeLLMError, UnsupportedError
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.writer import GGUFWriter
from edgellm.program.exported import is_exported


def export(file: GGUFFile, output: Path, context: int, progress: Callable[[int, int], None]) -> list[str]:
    """Write a copy of a file, its parts joined, with the program for `context` tokens.

    progress: called with bytes done and bytes in all. Returns the reasons why a part of the model cannot be
    used without Python. Raises as `embedded` and `GGUFWriter` do.
    """
    if is_exported(file.metadata):
        raise UnsupportedError(f"{file.path}: the weights are in ONNX form, expected a GGUF model")
    shapes = {name: info.shape for name, info in file.tensors.items()}
    try:
        pairs = embedded(file.metadata, shapes, context)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None
    total = sum(info.n_bytes for info in file.tensors.values())
    done = 0
    with GGUFWriter(output, file.alignment, inputs=(file.path,)) as writer:
        for key, value in file.metadata.items():
            if not key.startswith(("split.", "general.alignment", PREFIX)):
                writer.set(key, value, file.metadata.element_type(key) or file.metadata.value_type(key))
        for key, pair in pairs.items():
            writer.set(key, pair.value, pair.kind)
        for info in file.tensors.values():
            writer.add_tensor(info.name, info.type, info.shape)
        writer.write_header()
        for info in file.tensors.values():
            writer.write_tensor(info.name, file.data(info.name))
            file.release(info.name)
            done += info.n_bytes
            progress(done, total)
        file.check()
        writer.finish()
    return missing(pairs)
