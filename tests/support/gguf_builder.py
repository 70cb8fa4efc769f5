"""Tiny GGUF files from Python values, well formed or not, without any GGUF library.

    GGUFBuilder().kv("general.architecture", "llama").tensor("w", GGMLType.F32, (2, 4), raw).build()

The defaults make a valid version 3 file. The counts, the version, the alignment of the data and each
tensor's offset, dimensions and type can be set to anything, so that a test can break one field at a time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.gguf.types import LAYOUTS, GGMLType, ValueType

SCALAR_FORMATS = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A length-prefixed string, with the true length unless another is given."""
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw) if length is None else length) + raw


def infer_type(value: object) -> ValueType:
    """The type a converter would write: uint32 (int32 if negative), float32, bool, string, array."""
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, int):
        return ValueType.UINT32 if value >= 0 else ValueType.INT32
    if isinstance(value, float):
        return ValueType.FLOAT32
    if isinstance(value, str | bytes):
        return ValueType.STRING
    return ValueType.ARRAY


def encode_value(value: object, kind: ValueType, element: ValueType | None = None) -> bytes:
    """The bytes of a metadata value, without its type; arrays take their type from the first element."""
    if kind is ValueType.STRING:
        assert isinstance(value, str | bytes)
        return string(value)
    if kind is ValueType.ARRAY:
        assert isinstance(value, list | tuple)
        inner = element if element is not None else infer_type(value[0])
        return u32(inner) + u64(len(value)) + b"".join(encode_value(item, inner) for item in value)
    return struct.pack(SCALAR_FORMATS[kind], value)


def tensor_info(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    """One tensor info as it is in the file: `dims` in file order, innermost first."""
    return string(name) + u32(len(dims)) + b"".join(u64(dim) for dim in dims) + u32(kind) + u64(offset)


@dataclass
class _Tensor:
    name: str | bytes
    dims: tuple[int, ...]
    kind: int
    raw: bytes
    offset: int | None


@dataclass
class GGUFBuilder:
    """Collects metadata and tensors; `build` gives the file's bytes."""

    version: int = 3
    alignment: int = 32
    magic: bytes = b"GGUF"
    n_tensors: int | None = None
    n_pairs: int | None = None
    pairs: list[bytes] = field(default_factory=list)
    tensors: list[_Tensor] = field(default_factory=list)

    def kv(
        self,
        key: str | bytes,
        value: object,
        kind: ValueType | None = None,
        element: ValueType | None = None,
    ) -> GGUFBuilder:
        """Add a metadata pair."""
        kind = infer_type(value) if kind is None else kind
        self.pairs.append(string(key) + u32(kind) + encode_value(value, kind, element))
        return self

    def raw_pair(self, raw: bytes) -> GGUFBuilder:
        """Add a metadata pair given as bytes."""
        self.pairs.append(raw)
        return self

    def tensor(
        self,
        name: str | bytes,
        kind: int,
        shape: tuple[int, ...],
        raw: bytes | NDArray[np.generic] | None = None,
        *,
        offset: int | None = None,
    ) -> GGUFBuilder:
        """Add a tensor, `shape` in NumPy order; without `raw`, zeros of the right size."""
        if raw is None:
            layout = LAYOUTS[GGMLType(kind)]
            n_values = int(np.prod(shape))
            raw = bytes(n_values // layout.block_size * layout.block_bytes)
        elif not isinstance(raw, bytes):
            raw = raw.tobytes()
        self.tensors.append(_Tensor(name, tuple(reversed(shape)), kind, raw, offset))
        return self

    def header(self) -> bytes:
        """All that stands before the padding and the tensor data."""
        infos: list[bytes] = []
        end = 0
        for tensor in self.tensors:
            start = end + -end % self.alignment
            end = start + len(tensor.raw)
            offset = start if tensor.offset is None else tensor.offset
            infos.append(tensor_info(tensor.name, tensor.dims, tensor.kind, offset))
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        head = self.magic + u32(self.version) + u64(n_tensors) + u64(n_pairs)
        return head + b"".join(self.pairs) + b"".join(infos)

    def build(self) -> bytes:
        """The file: header, padding, data."""
        data = bytearray()
        for tensor in self.tensors:
            data += bytes(-len(data) % self.alignment) + tensor.raw
        head = self.header()
        return head + bytes(-len(head) % self.alignment) + bytes(data)

    def write(self, path: Path) -> Path:
        """Write the file; returns its path."""
        path.write_bytes(self.build())
        return path
