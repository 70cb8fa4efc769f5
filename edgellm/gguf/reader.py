"""Reading GGUF files: mapped, checked, split files joined.

Nothing is trusted: see `header`. Tensor data is never read here, only mapped. A file that is shortened or
overwritten while it is open is `damaged`: see `mapping`.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from edgellm.errors import FileChangedError, FileError, FormatError, NoMemoryError, show
from edgellm.gguf.header import Header, parse_header
from edgellm.gguf.mapping import MappedFile
from edgellm.gguf.metadata import Metadata, refuse
from edgellm.gguf.types import GGMLType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_MAX_PARTS = 1024


class TensorInfo(NamedTuple):
    """One tensor: `shape` in NumPy order, (rows, cols); `offset` in bytes from the start of file `part`."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    n_bytes: int
    offset: int
    part: int


class _Part:
    """One mapped file."""

    def __init__(self, path: Path, guarded: bool) -> None:
        self.path = path
        self.file = _map(path, guarded)
        self.header: Header = parse_header(str(path), self.file)
        self.data = memoryview(self.file)


class _HeaderPart(_Part):
    """The header of a file that is elsewhere; it has no data to read."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header


class GGUFFile:
    """A GGUF model: metadata, and tensors mapped from its file or, if it is split, from all its files."""

    def __init__(self, path: Path, parts: list[_Part]) -> None:
        self.path = path
        self._parts = parts
        self.version: int = parts[0].header.version
        self.alignment: int = parts[0].header.alignment
        self.metadata: Metadata = parts[0].header.metadata
        self.tensors: dict[str, TensorInfo] = _join_tensors(parts)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, guarded: bool = False) -> GGUFFile:
        """Map and check a GGUF file; any part of a split one opens the whole.

        guarded: for users that look at `damaged` after what they read; see `mapping.MappedFile`.
        Raises FileError for a file that is missing or cannot be read, FormatError for malformed content,
        UnsupportedError for a version or tensor type that edgellm does not read.
        """
        path = Path(path)
        part = _Part(path, guarded)
        match = _SPLIT_NAME.fullmatch(path.name)
        count = _split_field(part, "split.count")
        if count is None and match and int(match[3]) > 1:
            refuse(
                str(path),
                "metadata key 'split.count'",
                "missing",
                f"{int(match[3])}, as the file's name says",
            )
        if count in (None, 0, 1):  # 0: llama-gguf-split has joined the parts
            return cls(path, [part])
        if not 1 <= count <= _MAX_PARTS:
            refuse(str(path), "metadata key 'split.count'", f"{count}", f"1 to {_MAX_PARTS}")
        if match is None or int(match[3]) != count:
            raise FormatError(
                f"{path}: the file is one of {count} parts but its name does not end in "
                f"-00001-of-{count:05d}.gguf or alike, so the others cannot be found; "
                "give it its original name"
            )
        opened = int(match[2]) - 1
        _check_part(part, opened, count)
        parts = [
            part
            if i == opened
            else _open_part(path, f"{match[1]}-{i + 1:05d}-of-{count:05d}.gguf", i, count, guarded)
            for i in range(count)
        ]
        _check_total(parts)
        return cls(parts[0].path, parts)

    @classmethod
    def of_headers(cls, headers: Sequence[tuple[Path, Header]]) -> GGUFFile:
        """A model of which only the headers are at hand, for plans and estimates: no tensor can be read."""
        return cls(headers[0][0], [_HeaderPart(path, header) for path, header in headers])

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the model: one, or all parts in order."""
        return tuple(part.path for part in self._parts)

    @property
    def changed(self) -> bool:
        """True if a path of the model leads to another content by now."""
        return any(part.file.changed for part in self._parts)

    @property
    def damaged(self) -> bool:
        """True if a file has been shortened or overwritten in place: what is read of it may be wrong."""
        return any(part.file.damaged for part in self._parts)

    @property
    def torn(self) -> bool:
        """True if a page was read that a file no longer has; costs nothing and misses overwritten files."""
        return any(part.file.torn for part in self._parts)

    def check(self) -> None:
        """Raise FileChangedError if the file is damaged."""
        if self.damaged:
            raise FileChangedError(
                f"{self.path}: the file was shortened or overwritten while the model was in use; "
                "load the model again"
            )

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor: (n_bytes,) uint8, a read-only view of the file; KeyError if absent."""
        import numpy as np

        return np.frombuffer(self.view(name), np.uint8)

    def view(self, name: str) -> memoryview:
        """The bytes of a tensor as `data` gives them, without NumPy."""
        info = self.tensors[name]
        return self._parts[info.part].data[info.offset : info.offset + info.n_bytes]

    def release(self, name: str) -> None:
        """Tell the kernel that a tensor's pages may go; reading them again reads the file again."""
        info = self.tensors[name]
        if sys.platform == "win32":
            return
        start = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (info.offset + info.n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self._parts[info.part].file.madvise(mmap.MADV_DONTNEED, start, end - start)

    def release_metadata(self) -> None:
        """Tell the kernel that the pages before the tensors may go; metadata is then read from the file."""
        if sys.platform != "win32":
            for part in self._parts:
                first = min((info.offset for info in self.tensors.values()), default=0)
                part.file.madvise(mmap.MADV_DONTNEED, 0, first // mmap.PAGESIZE * mmap.PAGESIZE)

    def close(self) -> None:
        """Drop the tensors and the mapping; arrays from `data` stay valid and keep what they need mapped."""
        self._parts = []
        self.tensors = {}

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _map(path: Path, guarded: bool) -> MappedFile:
    """Map a regular file for reading; what could block or is empty is refused before it is opened."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"{path}: is a directory, expected a GGUF file; {_advice(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise FileError(
                f"{path}: is not a regular file, expected a GGUF file; give the path of a model file"
            )
        if not status.st_size:
            raise FormatError(f"{path}: the file is empty, expected a GGUF model; fetch it again")
        with open(path, "rb") as file:
            return MappedFile(file, path, guarded=guarded)
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file, expected a GGUF model; check the path") from None
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise NoMemoryError(f"{path}: this file") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileError(
            f"{path}: the file cannot be read ({reason}); check the path and its permissions"
        ) from None


def _split_field(part: _Part, key: str) -> int | None:
    """A `split.*` number of one part, or None if it has none."""
    value = part.header.metadata.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        refuse(str(part.path), f"metadata key '{key}'", "not a whole number", "a whole number")
    return value


def _open_part(first: Path, name: str, index: int, count: int, guarded: bool) -> _Part:
    path = first.with_name(name)
    if not path.exists():
        raise FileError(
            f"{path}: part {index + 1} of {count} is missing, expected beside {first.name}; "
            f"fetch all {count} parts"
        )
    part = _Part(path, guarded)
    _check_part(part, index, count)
    return part


def _check_part(part: _Part, index: int, count: int) -> None:
    for key, expected in (("split.count", count), ("split.no", index)):
        found = _split_field(part, key)
        if found != expected:
            refuse(
                str(part.path),
                f"metadata key '{key}'",
                "missing" if found is None else f"{found}",
                f"{expected}, as the file's name says",
                "the parts do not belong together or were renamed: fetch them again",
            )


def _check_total(parts: list[_Part]) -> None:
    total = sum(len(part.header.tensors) for part in parts)
    for part in parts:
        found = _split_field(part, "split.tensors.count")
        if found is not None and found != total:
            refuse(
                str(part.path),
                "metadata key 'split.tensors.count'",
                f"{found}",
                f"{total}, the tensors in all parts",
                "the parts do not belong together: fetch them again",
            )


def _join_tensors(parts: list[_Part]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for index, part in enumerate(parts):
        for name, kind, shape, n_bytes, offset in part.header.tensors:
            if name in tensors:
                refuse(str(part.path), f"tensor {show(name)}", "also in an earlier part", "in one part")
            tensors[name] = TensorInfo(name, kind, shape, n_bytes, offset, index)
    return tensors


def _advice(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"it holds a checkpoint, of which `edgellm convert {folder} model.gguf` makes a GGUF file"
    return "give the path of the file inside it"
