"""Reading one safetensors file: a header of JSON, then the tensors' bytes, read in place.

Source: the safetensors format (huggingface/safetensors). Every offset and shape is checked against the file
before it is used.
"""

from __future__ import annotations

import json
import mmap
import re
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import FileError, FormatError, UnsupportedError, show

# Bytes per value of the types a checkpoint may hold.
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "U16": 2,
    "U32": 4,
    "U64": 8,
    "BOOL": 1,
}
_MAX_HEADER = 100_000_000
_MAX_DIMS = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `begin` .. `end` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """The tensors of one file by name; FormatError for a file that is not whole or not well formed.

    prefix: goes before the names, for files that name their tensors alike.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is empty"
            raise FileError(
                f"{path}: the file cannot be read ({reason}), expected safetensors; download it again"
            ) from None
        self.entries = {prefix + name: entry for name, entry in self._read_header().items()}

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, in place."""
        entry = self.entries[name]
        return np.frombuffer(self._map, np.uint8, entry.end - entry.begin, entry.begin)

    def release(self, name: str, n_bytes: int) -> None:
        """Let the kernel drop the pages of the first n_bytes of a tensor."""
        entry = self.entries[name]
        start = -(-entry.begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (entry.begin + n_bytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if length > 0 and sys.platform != "win32":
            self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def _read_header(self) -> dict[str, Entry]:
        size = len(self._map)
        n_header = int.from_bytes(self._map[:8], "little")
        if size < 8 or not 2 <= n_header <= min(_MAX_HEADER, size - 8):
            self._refuse("the length of its header", f"{n_header}", f"2 to {max(2, size - 8)} bytes")
        try:
            header = json.loads(self._map[8 : 8 + n_header].decode())
        except (ValueError, RecursionError):
            self._refuse("its header", "not JSON", "the names and places of tensors")
        if not isinstance(header, dict):
            self._refuse("its header", f"a {type(header).__name__}", "an object")
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, value, 8 + n_header) for name, value in header.items()}
        end = 8 + n_header
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin < end:
                self._refuse(f"tensor {name[:80]!r}", "inside another tensor", "a place of its own")
            end = entry.end
        return entries

    def _entry(self, name: str, value: Any, start: int) -> Entry:
        field = f"tensor {name[:80]!r}"
        if not isinstance(value, dict):
            self._refuse(field, f"a {type(value).__name__}", "an object")
        dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
        if isinstance(dtype, str) and dtype not in DTYPE_BYTES and re.fullmatch(r"[A-Z]\d\w*", dtype):
            raise UnsupportedError(
                f"{self.path}: {field} is {show(dtype)}, a type that is not read here, expected one of "
                f"{', '.join(DTYPE_BYTES)}; use the checkpoint before it was quantized"
            )
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            self._refuse(f"the dtype of {field}", show(dtype), f"one of {', '.join(DTYPE_BYTES)}")
        if not _counts(shape) or len(shape) > _MAX_DIMS:
            self._refuse(f"the shape of {field}", show(shape), f"up to {_MAX_DIMS} whole numbers")
        if not _counts(offsets) or len(offsets) != 2:
            self._refuse(f"the place of {field}", show(offsets), "where it begins and ends")
        begin, end = offsets
        if end - begin != prod(shape) * DTYPE_BYTES[dtype]:
            self._refuse(
                f"the size of {field}",
                f"{end - begin} bytes",
                f"{prod(shape) * DTYPE_BYTES[dtype]} for {dtype} of shape {tuple(shape)}",
            )
        if start + end > len(self._map):
            self._refuse(
                f"the end of {field}", f"at byte {start + end}", f"within the file of {len(self._map)} bytes"
            )
        return Entry(dtype, tuple(shape), start + begin, start + end)

    def _refuse(self, field: str, found: str, expected: str) -> NoReturn:
        raise FormatError(
            f"{self.path}: {field} is {found}, expected {expected}; the file is damaged, download it again"
        )


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
