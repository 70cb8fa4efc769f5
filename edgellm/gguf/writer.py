"""Writing GGUF files: tensor by tensor, and under the final name only when the file is whole.

The file grows as `<name>.part`, at its full size from the start, so that a full disk is noticed before
the work. With a `resume` token, `<name>.part.state` says which tensors are safely on the disk, and a
later writer of the same header and token continues there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Iterable
from math import prod
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import FileError, FormatError, show
from edgellm.gguf.encode import Writable, encode_string, encode_value
from edgellm.gguf.header import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    MIN_ALIGNMENT,
)
from edgellm.gguf.types import LAYOUTS, GGMLType, ValueType
from edgellm.system.files import BINARY, NO_FOLLOW, lock_file, sync_folder

VERSION = 3

# A tensor counts as written once it is on the disk; waiting for the disk is paid once per this many bytes.
_SYNC_BYTES = 64 << 20


class _Slot(NamedTuple):
    """Place of a declared tensor: `offset` in bytes from the start of the tensor data."""

    type: GGMLType
    dims: tuple[int, ...]
    offset: int
    n_bytes: int


class GGUFWriter:
    """Writes one GGUF file: `set` and `add_tensor` first, then `write_header`, `write_tensor`s, `finish`.

    As a context manager it removes the `.part` file if the block is left without `finish`, or keeps it
    for the next attempt if there is a `resume` token. `inputs` are files that must not be overwritten.
    Raises FileError where a file cannot be written or is an input, FormatError for what GGUF cannot hold.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        alignment: int = DEFAULT_ALIGNMENT,
        *,
        inputs: Iterable[str | os.PathLike[str]] = (),
        resume: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self._state = self.path.with_name(self.path.name + ".part.state")
        if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._refuse(
                "the alignment", f"{alignment}", f"a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
            )
        if self.path.is_dir():
            raise FileError(f"{self.path}: is a directory, expected the name of a file to write; add a name")
        for source in inputs:
            for target in (self.path, self.part):
                if target.exists() and os.path.exists(source) and os.path.samefile(target, source):
                    raise FileError(
                        f"{target}: is also the input {source}, expected another file; choose another output"
                    )
        self._alignment = alignment
        self._resume = resume
        self._pairs: dict[str, tuple[ValueType, bytes]] = {}
        self._slots: dict[str, _Slot] = {}
        self._data_bytes = 0
        self._data_start = 0
        self._fd: int | None = None
        self._finished = False
        self._written: set[str] = set()
        self._unsynced: list[str] = []
        self._unsynced_bytes = 0
        if alignment != DEFAULT_ALIGNMENT:
            self.set("general.alignment", alignment)

    @property
    def written(self) -> frozenset[str]:
        """The tensors that need not be written any more, those of an earlier attempt included."""
        return frozenset(self._written)

    @property
    def n_bytes(self) -> int:
        """The size of the file as declared so far, without its header, in bytes."""
        return self._data_bytes

    def set(self, key: str, value: Writable, kind: ValueType | None = None) -> None:
        """Set a metadata pair; `kind`: type of the value or of an array's elements (see `encode_value`)."""
        self._before_header()
        field = f"metadata key {show(key)}"
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
            self._refuse(f"the length of {field}", f"{len(key.encode())}", f"1 to {MAX_KEY_BYTES} bytes")
        if key == "general.alignment" and value != self._alignment:
            self._refuse(field, f"{value}", f"{self._alignment}, the alignment of this file")
        try:
            self._pairs[key] = encode_value(value, kind)
        except (ValueError, TypeError) as error:
            self._refuse(field, f"not writable ({error})", "a value that GGUF can hold")

    def add_tensor(self, name: str, kind: GGMLType, shape: tuple[int, ...]) -> None:
        """Declare a tensor; `shape` in NumPy order, (rows, cols)."""
        self._before_header()
        field = f"tensor {show(name)}"
        layout = LAYOUTS[kind]
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            self._refuse(
                f"the name of {field}", f"{len(name.encode())} bytes", f"1 to {MAX_NAME_BYTES} bytes"
            )
        if name in self._slots:
            self._refuse(field, "declared twice", "once")
        if not 1 <= len(shape) <= MAX_DIMS or min(shape) < 1:
            self._refuse(f"the shape of {field}", f"{shape}", f"1 to {MAX_DIMS} dimensions of at least 1")
        if shape[-1] % layout.block_size:
            self._refuse(
                f"the row length of {field}",
                f"{shape[-1]}",
                f"a multiple of {layout.block_size}, the block size of {kind.name}",
            )
        n_bytes = prod(shape) // layout.block_size * layout.block_bytes
        offset = self._aligned(self._data_bytes)
        self._slots[name] = _Slot(kind, tuple(reversed(shape)), offset, n_bytes)
        self._data_bytes = offset + n_bytes

    def write_header(self) -> None:
        """Create the `.part` file at its full size and write the header; nothing can be declared after."""
        self._before_header()
        header = self._header()
        self._data_start = self._aligned(len(header))
        n_bytes = self._data_start + self._data_bytes
        digest = hashlib.sha256(header).hexdigest()
        try:
            self._fd = os.open(self.part, os.O_RDWR | os.O_CREAT | NO_FOLLOW | BINARY, 0o666)
            self._lock(self._fd)
            if self._resume is not None:
                self._written.update(self._load_state(self._fd, digest, n_bytes))
            if not self._written:
                self._state.unlink(missing_ok=True)
                os.ftruncate(self._fd, 0)
                self._allocate(self._fd, n_bytes)
                self._write_at(0, header)
            if self._resume is not None:
                self._save_state({"header": digest, "work": self._resume}, *self._written, mode="w")
        except OSError as error:
            self._fail(error, n_bytes)

    def replace(self, key: str, value: Writable, kind: ValueType | None = None) -> None:
        """Put another value of the same type and size in the place of a written one, such as a checksum.

        Raises KeyError for a key that is not set, ValueError for a value of another type or size.
        """
        if self._fd is None:
            raise RuntimeError("write_header comes before replace")
        encoded = encode_value(value, kind)
        before = self._pairs[key]
        if (encoded[0], len(encoded[1])) != (before[0], len(before[1])):
            raise ValueError(f"the value of {show(key)} has another type or size than the one before")
        self._pairs[key] = encoded
        try:
            self._write_at(0, self._header())
        except OSError as error:
            self._fail(error, self._data_start + self._data_bytes)

    def write_tensor(self, name: str, raw: NDArray[np.uint8] | Iterable[NDArray[np.uint8]]) -> None:
        """Write a declared tensor, in any order; `raw` (n_bytes,) uint8, whole or in consecutive pieces.

        Raises ValueError if `raw` is not as long as declared, KeyError for an undeclared tensor.
        """
        slot = self._slots[name]
        if self._fd is None:
            raise RuntimeError("write_header comes before write_tensor")
        pieces = [raw] if isinstance(raw, np.ndarray) else raw
        done = 0
        try:
            for piece in pieces:
                size = piece.nbytes
                if done + size <= slot.n_bytes:
                    self._write_at(self._data_start + slot.offset + done, np.ascontiguousarray(piece).data)
                done += size
            if done != slot.n_bytes:
                raise ValueError(f"tensor {show(name)} got {done} bytes, declared were {slot.n_bytes}")
            self._written.add(name)
            self._unsynced.append(name)
            self._unsynced_bytes += done
            if self._resume is not None and self._unsynced_bytes >= _SYNC_BYTES:
                self._record()
        except OSError as error:
            self._fail(error, self._data_start + self._data_bytes)

    def finish(self) -> None:
        """Make the file whole: sync it, give it its final name, sync the folder.

        Raises ValueError if a declared tensor was not written.
        """
        if self._fd is None:
            raise RuntimeError("write_header comes before finish")
        missing = [name for name in self._slots if name not in self._written]
        if missing:
            raise ValueError(f"{len(missing)} declared tensors were not written, the first is {missing[0]}")
        try:
            os.fsync(self._fd)
            if os.name == "nt":  # an open file cannot be renamed there
                self._close()
            os.replace(self.part, self.path)
            self._finished = True
            self._state.unlink(missing_ok=True)
            sync_folder(self.path.parent)
        except OSError as error:
            self._fail(error, self._data_start + self._data_bytes)
        self._close()

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished or self._fd is None:
            return
        try:
            if self._resume is not None:
                self._record()
        finally:
            self._close()
            if self._resume is None:
                self.part.unlink(missing_ok=True)

    def _before_header(self) -> None:
        if self._fd is not None or self._finished:
            raise RuntimeError("the header is written, nothing can be declared any more")

    def _aligned(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment

    def _header(self) -> bytes:
        parts = [MAGIC, struct.pack("<IQQ", VERSION, len(self._slots), len(self._pairs))]
        for key, (kind, raw) in self._pairs.items():
            parts += (encode_string(key), struct.pack("<I", kind), raw)
        for name, slot in self._slots.items():
            n_dims = len(slot.dims)
            parts.append(encode_string(name))
            parts.append(struct.pack(f"<I{n_dims}QIQ", n_dims, *slot.dims, slot.type, slot.offset))
        return b"".join(parts)

    def _write_at(self, offset: int, raw: bytes | memoryview) -> None:
        assert self._fd is not None
        os.lseek(self._fd, offset, os.SEEK_SET)
        view = memoryview(raw).cast("B")
        while view:
            view = view[os.write(self._fd, view[: 1 << 30]) :]

    def _lock(self, fd: int) -> None:
        """Refuse to share the `.part` file with another writer, where the file system has locks."""
        if not lock_file(fd, wait=False):
            self._close()
            raise FileError(
                f"{self.part}: another process is writing this file, expected to be alone; "
                "wait until it is done"
            ) from None

    def _allocate(self, fd: int, n_bytes: int) -> None:
        """Give the file its size, and its disk space where the file system can."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, n_bytes)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        os.ftruncate(fd, n_bytes)

    def _load_state(self, fd: int, digest: str, n_bytes: int) -> list[str]:
        """The tensors that an earlier attempt at the same file has on the disk; none if it was another."""
        try:
            lines = self._state.read_text(encoding="utf-8").split("\n")[:-1]
            first, *names = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return []
        if first != {"header": digest, "work": self._resume} or os.fstat(fd).st_size != n_bytes:
            return []
        return [name for name in names if isinstance(name, str) and name in self._slots]

    def _save_state(self, *entries: str | dict[str, str], mode: str = "a") -> None:
        with open(self._state, mode, encoding="utf-8") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))

    def _record(self) -> None:
        """Note the tensors written since the last time as done, once they are on the disk."""
        if self._fd is None or not self._unsynced:
            return
        os.fsync(self._fd)
        self._save_state(*self._unsynced)
        self._unsynced, self._unsynced_bytes = [], 0

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _refuse(self, field: str, found: str, expected: str) -> NoReturn:
        raise FormatError(
            f"{self.path}: {field} is {found}, expected {expected}; this model cannot be written so"
        )

    def _fail(self, error: OSError, n_bytes: int) -> NoReturn:
        if error.errno == errno.ENOSPC:
            raise FileError(
                f"{self.part}: the disk is full, expected room for {n_bytes} bytes; "
                "free some space or choose another place"
            ) from error
        raise FileError(
            f"{self.part}: the file cannot be written ({error.strerror}), expected a folder that can be; "
            "check the path and its permissions"
        ) from error
