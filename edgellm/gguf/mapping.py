"""Files mapped for reading, which may be shortened or overwritten meanwhile."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from edgellm._native import guard_mapping, mapping_torn, unguard_mapping


class Stamp(NamedTuple):
    """A file's identity: another one, or another size or modification time, is another content."""

    device: int
    inode: int
    n_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class MappedFile(mmap.mmap):
    """All of a file, as it is.

    guarded: a page that the file no longer has reads as zeros, and the mapping is `damaged`, for whoever
    uses what was read to find out; otherwise the system ends the process there.
    """

    path: Path
    stamp: Stamp
    _number: int = -1

    def __new__(cls, file: BinaryIO, path: Path, *, guarded: bool) -> Self:
        mapped = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.path, mapped.stamp = path, Stamp.of(os.fstat(file.fileno()))
        mapped._number = guard_mapping(mapped) if guarded else -1
        return mapped

    @property
    def changed(self) -> bool:
        """True if the path leads to another content by now, in this file or in another one."""
        now = self._now()
        return self.torn or (now is not None and now != self.stamp)

    @property
    def damaged(self) -> bool:
        """True if this file, which is what is mapped, has another content by now."""
        now = self._now()
        if self.torn:
            return True
        return now is not None and now != self.stamp and now[:2] == self.stamp[:2]

    @property
    def torn(self) -> bool:
        """True if a page was read that the file no longer has; costs nothing and misses overwritten files."""
        return mapping_torn(self._number)

    def _now(self) -> Stamp | None:
        try:
            return Stamp.of(os.stat(self.path))
        except OSError:
            return None  # what is mapped stays as it is

    def __del__(self, unguard: Callable[[int], None] = unguard_mapping) -> None:
        unguard(self._number)
