"""Folder of saved pieces of sequences, so that prefixes computed before a restart are not computed again.

A file holds the keys and values of some tokens. Its name is a hash of the model, of these tokens and of all
tokens before them. A file is used only if its checksum and its name agree with its contents, and is removed
otherwise. A thread of its own writes the files; the least recently used ones are removed at the limit. The
files contain users' text, so the folder is readable by its owner only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import stat
import struct
import threading
import time
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgellm.errors import UsageError
from edgellm.system.files import PrivateFolder

log = logging.getLogger("edgellm.engine")

MAGIC = b"EDGEKV01"
KEY_BYTES = 20
MODEL_BYTES = 16
CHECK_BYTES = 4
_HEADER = struct.Struct(f"<8s{MODEL_BYTES}s{KEY_BYTES}sQQ")  # magic, model, parent, n_tokens, n_payload
_NAME = re.compile(rf"([0-9a-f]{{{2 * MODEL_BYTES}}})-([0-9a-f]{{{2 * KEY_BYTES}}})\.kv")
_PART = re.compile(rf"{_NAME.pattern}(\.[0-9a-f]+)?\.part")
_FOLDER = "prefixes"
_LOCK = "lock"
ROOT = bytes(KEY_BYTES)
# Pause after a failed write: a full disk stays full for a while.
PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a sequence from position `start` on; `parent` is the key of the tokens before them."""

    model: bytes
    parent: bytes
    start: int
    tokens: array[int]
    key: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def name(self) -> str:
        """Name of the piece's file."""
        return f"{self.model.hex()}-{self.key.hex()}.kv"


def make_piece(model: bytes, parent: bytes, start: int, tokens: array[int]) -> Piece:
    """Make a piece; its key follows from its model, its tokens and those before them."""
    key = hashlib.blake2b(model + parent + tokens.tobytes(), digest_size=KEY_BYTES).digest()
    return Piece(model, parent, start, tokens, key)


def chain(model: bytes, tokens: array[int], size: int, root: bytes = ROOT) -> Iterator[Piece]:
    """Pieces of `size` tokens at the beginning of a sequence; a shorter rest belongs to none."""
    parent = root
    for start in range(0, len(tokens) - size + 1, size):
        piece = make_piece(model, parent, start, tokens[start : start + size])
        yield piece
        parent = piece.key


class PrefixStore:
    """Pieces of any number of models in one folder, at most `max_bytes`. Methods may be called from any
    thread.

    Raises UsageError if the folder belongs to another user or is in use by another process.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise UsageError(f"The limit of {folder} is {max_bytes} bytes; give a size such as 900M or 2G.")
        self._folder = folder / _FOLDER
        self._max_bytes = max_bytes
        self._files = _open_folder(folder)
        try:
            self._lock = _lock(self._files, folder)
        except BaseException:
            self._files.close()
            raise
        self._guard = threading.Lock()  # guards _sizes and _pending
        self._sizes: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._pending: set[str] = set()
        self._scan()
        self._paused_until = 0.0
        self._jobs: queue.Queue[tuple[Piece, bytes, Sequence[Piece]] | None] = queue.Queue(maxsize=2)
        self._writer = threading.Thread(target=self._write_all, name="edgellm-prefixes", daemon=True)
        self._writer.start()

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        with self._guard:
            return sum(self._sizes.values())

    @property
    def busy(self) -> bool:
        """True if a piece that is put now would have to wait."""
        return self._jobs.full()

    def has(self, piece: Piece) -> bool:
        """True if a piece is in the folder, or queued for writing."""
        with self._guard:
            return piece.name in self._sizes or piece.name in self._pending

    def put(self, piece: Piece, payload: bytes, before: Sequence[Piece]) -> None:
        """Queue a piece for writing; waits while the writer is busy. before: the pieces that it continues."""
        if time.monotonic() < self._paused_until:
            return
        with self._guard:
            self._pending.add(piece.name)
        self._jobs.put((piece, payload, before))

    def read(self, piece: Piece) -> bytes | None:
        """Payload of a piece; None if its file is missing or damaged."""
        if not self.has(piece):
            return None
        try:
            payload = self._read_file(piece)
        except OSError as error:
            self._drop(piece.name, f"cannot be read ({error.strerror})")
            return None
        if payload is None:
            self._drop(piece.name, "is damaged")
        return payload

    def touch(self, pieces: Sequence[Piece]) -> None:
        """Mark pieces of one sequence as used now, the first piece last, because the others need it."""
        now = time.time_ns()
        for age, piece in enumerate(reversed(pieces)):
            with self._guard:
                if piece.name not in self._sizes:
                    continue
                self._sizes.move_to_end(piece.name)
            moment = now + age
            try:
                self._files.set_time(piece.name, moment)
            except OSError:
                continue  # affects only the order of eviction after a restart

    def discard(self, piece: Piece) -> None:
        """Remove a piece that its model cannot use."""
        self._drop(piece.name, "does not fit its model")

    def sequences(self, model: bytes) -> list[Piece]:
        """All pieces of a model that saves each sequence as one piece."""
        found = []
        with self._guard:
            names = [name for name in self._sizes if name.startswith(f"{model.hex()}-")]
        for name in names:
            piece = self._read_head(name, model)
            if piece is None:
                self._drop(name, "is damaged")
            else:
                found.append(piece)
        return found

    def close(self) -> None:
        """Return when every queued piece is written."""
        if self._writer.is_alive():
            self._jobs.put(None)
            self._writer.join()
            self._lock.close()
            self._files.close()

    def _scan(self) -> None:
        """List the files of the folder; remove half-written ones, which a killed process leaves behind."""
        found = []
        for name in self._files.names():
            if _PART.fullmatch(name):
                self._unlink(name)
            elif _NAME.fullmatch(name):
                status = self._files.status(name)
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, name, status.st_size))
        for _, name, size in sorted(found):
            self._sizes[name] = size
        self._shrink(0)

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            piece, payload, before = job
            try:
                if time.monotonic() >= self._paused_until:
                    self._write(piece, payload)
                    self.touch([*before, piece])
            except OSError as error:
                self._paused_until = time.monotonic() + PAUSE_S
                log.warning("%s: %s; nothing is kept there for %.0f s", self._folder, error.strerror, PAUSE_S)
            finally:
                with self._guard:
                    self._pending.discard(piece.name)

    def _write(self, piece: Piece, payload: bytes) -> None:
        head = _head(piece, len(payload))
        check = _checksum(head, payload)
        size = len(head) + len(payload) + len(check)
        if size > self._max_bytes:
            return
        self._shrink(size)
        self._files.write(piece.name, head, payload, check)
        with self._guard:
            self._sizes[piece.name] = size

    def _shrink(self, n_bytes: int) -> None:
        """Remove the least recently used files until there is room for `n_bytes` more."""
        while True:
            with self._guard:
                if not self._sizes or sum(self._sizes.values()) + n_bytes <= self._max_bytes:
                    return
                name, _ = self._sizes.popitem(last=False)
            self._unlink(name)

    def _drop(self, name: str, why: str) -> None:
        with self._guard:
            known = self._sizes.pop(name, None)
        if known is not None:  # else it was removed to make room
            log.warning("%s: %s %s; it is removed", self._folder, name, why)
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        try:
            self._files.unlink(name)
        except OSError as error:
            log.warning("%s: %s cannot be removed: %s", self._folder, name, error.strerror)

    def _read_file(self, piece: Piece) -> bytes | None:
        """Payload of a file, if the file is undamaged and holds this piece."""
        tokens = piece.tokens.tobytes()
        with self._files.open(piece.name) as file:
            size = os.fstat(file.fileno()).st_size
            n_payload = size - _HEADER.size - len(tokens) - CHECK_BYTES
            if not 0 <= n_payload <= self._max_bytes:
                return None
            head = _head(piece, n_payload)
            if file.read(len(head)) != head:
                return None
            payload = file.read(n_payload)
            return payload if file.read(CHECK_BYTES + 1) == _checksum(head, payload) else None

    def _read_head(self, name: str, model: bytes) -> Piece | None:
        """Piece of a file, if its name agrees with its tokens; the payload is checked when it is read."""
        with self._guard:
            size = self._sizes.get(name, 0)
        try:
            with self._files.open(name) as file:
                head = file.read(_HEADER.size)
                if len(head) < _HEADER.size:
                    return None
                magic, owner, parent, n_tokens, _ = _HEADER.unpack(head)
                if magic != MAGIC or owner != model or n_tokens * 4 > size:
                    return None
                tokens = array("i")
                tokens.frombytes(file.read(n_tokens * tokens.itemsize))
        except (OSError, ValueError):
            return None
        piece = make_piece(model, parent, 0, tokens)
        return piece if len(tokens) == n_tokens and piece.name == name else None


def _head(piece: Piece, n_payload: int) -> bytes:
    tokens = piece.tokens.tobytes()
    return _HEADER.pack(MAGIC, piece.model, piece.parent, len(piece.tokens), n_payload) + tokens


def _checksum(head: bytes, payload: bytes) -> bytes:
    """CRC-32 against damage. It is no defence: only this user may write here, who could forge any sum."""
    return zlib.crc32(payload, zlib.crc32(head)).to_bytes(CHECK_BYTES, "little")


def _open_folder(folder: Path) -> PrivateFolder:
    """Folder of the pieces inside `folder`, made if need be."""
    try:
        return PrivateFolder(folder / _FOLDER)
    except PermissionError as error:
        if error.filename is not None:
            raise _unusable(folder, error) from None
        raise UsageError(f"{folder / _FOLDER} belongs to another user; choose another --cache-dir.") from None
    except OSError as error:
        raise _unusable(folder, error) from None


def _lock(files: PrivateFolder, folder: Path) -> BinaryIO:
    """Lock the folder for this process; the system releases the lock when the process ends in any way."""
    try:
        lock = files.lock(_LOCK)
    except OSError as error:
        raise _unusable(folder, error) from None
    if lock is None:
        raise UsageError(f"{folder} is the cache of another edgellm that runs; choose another --cache-dir.")
    return lock


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"{folder}: cannot be used as a cache ({error.strerror}); choose another --cache-dir.")
