"""Locks of files, folders of one user, and what else of files differs between operating systems."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Self

# Flags of os.open that some systems lack. Python's descriptors are not inherited by programs it starts.
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
BINARY: int = getattr(os, "O_BINARY", 0)


def lock_file(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file for this process; False if another one has it and `wait` is false.

    The system releases the lock when the descriptor is closed or the process ends. Raises OSError where the
    file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        while True:
            try:
                # LK_LOCK gives up after ten seconds.
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EDEADLOCK):
                    raise
                if not wait:
                    return False
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power failure, where the system can."""
    if sys.platform == "win32":
        return  # NTFS keeps a journal of names, and folders cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Folder:
    """Files of one folder, which all have names of one part.

    POSIX: the folder is opened once, and all access goes through it, whatever its path leads to later; links
    to files are not followed. Windows: access goes through the path. All methods raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        if sys.platform != "win32":
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | self._open_flags)

    _open_flags = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Names of all entries."""
        return os.listdir(self.path if self._fd is None else self._fd)

    def status(self, name: str) -> os.stat_result:
        """Status of an entry itself, if it is a link."""
        return os.stat(self._place(name), dir_fd=self._fd, follow_symlinks=False)

    def create(self, name: str, mode: int = 0o600) -> BinaryIO:
        """Open a new file for writing; FileExistsError if there is an entry of that name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY
        return os.fdopen(os.open(self._place(name), flags, mode, dir_fd=self._fd), "wb")

    def write(self, name: str, *parts: bytes, mode: int = 0o600, new: bool = False) -> None:
        """Write a file whole or not at all, in place of the one that has its name.

        The parts are written one after another, and are on the disk when the file gets its name. new:
        FileExistsError if there is an entry of that name by then.
        """
        part = f"{name}.{os.urandom(4).hex()}.part"
        file = self.create(part, mode)
        try:
            with file:
                for data in parts:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if new:
                self._rename_new(part, name)
            else:
                self.rename(part, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(part)
            raise

    def open(self, name: str) -> BinaryIO:
        """Open a regular file of this user for reading."""
        descriptor = os.open(self._place(name), os.O_RDONLY | NO_FOLLOW | NO_WAIT | BINARY, dir_fd=self._fd)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PermissionError(errno.EPERM, "not a regular file")
            _check_owner(status)
        except OSError:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")

    def lock(self, name: str) -> BinaryIO | None:
        """Lock a file, made if need be, until it is closed; None if another process has it."""
        flags = os.O_RDWR | os.O_CREAT | NO_FOLLOW | BINARY
        file = os.fdopen(os.open(self._place(name), flags, 0o600, dir_fd=self._fd), "r+b")
        try:
            if lock_file(file.fileno(), wait=False):
                return file
        except OSError:
            file.close()
            raise
        file.close()
        return None

    def rename(self, old: str, new: str) -> None:
        """Give an entry another name, in place of the entry that has it."""
        os.replace(self._place(old), self._place(new), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _rename_new(self, old: str, new: str) -> None:
        """Give an entry another name, which no entry has."""
        if sys.platform == "win32":
            os.rename(self._place(old), self._place(new))
            return
        try:
            os.link(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
                raise
            # The file system has no links: another process may be first between these two lines.
            if new in self.names():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
            self.rename(old, new)
        else:
            self.unlink(old)

    def unlink(self, name: str) -> None:
        """Remove an entry."""
        os.unlink(self._place(name), dir_fd=self._fd)

    def set_time(self, name: str, time_ns: int) -> None:
        """Set an entry's times of access and modification."""
        times = time_ns, time_ns
        os.utime(self._place(name), ns=times, dir_fd=self._fd, follow_symlinks=self._fd is None)

    def close(self) -> None:
        """Release the folder; locked files stay locked until they are closed."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _place(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)


class PrivateFolder(Folder):
    """A folder that belongs to this user, and that others may not read; made if need be.

    On Windows a user's folders are closed to others. PermissionError without a file name if the folder or a
    file belongs to another user; OSError for a path that is a link.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        super().__init__(path)
        if sys.platform != "win32" and self._fd is not None:
            try:
                status = os.fstat(self._fd)
                _check_owner(status)
                if stat.S_IMODE(status.st_mode) & 0o077:
                    os.fchmod(self._fd, 0o700)
            except OSError:
                self.close()
                raise

    _open_flags = NO_FOLLOW


def _check_owner(status: os.stat_result) -> None:
    if sys.platform != "win32" and status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user")
