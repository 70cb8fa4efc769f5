"""Pieces of one model in a prefix store: how sequences are cut into pieces, saved and restored.

Sequences that consist of blocks of keys and values alone are saved in pieces of some blocks, so that a common
prefix is written once. Sequences of recurrent and windowed models are saved whole.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import struct
import threading
from array import array
from collections.abc import Sequence

from edgellm import __version__
from edgellm.backends.base import SavingBackend
from edgellm.engine.adapters import Scales
from edgellm.engine.prefix_cache import common_prefix
from edgellm.engine.prefix_store import KEY_BYTES, MODEL_BYTES, ROOT, Piece, PrefixStore, chain, make_piece
from edgellm.errors import BackendError
from edgellm.gguf.reader import GGUFFile
from edgellm.program import Program, to_text
from edgellm.program.adapter import Adapter

log = logging.getLogger("edgellm.engine")

# Increase it when the bytes that backends save change.
LAYOUT = "1"
SAMPLE_BYTES = 64
# Tokens of a piece: few enough to lose little at the point where prompts differ, many enough for few files.
PIECE_TOKENS = 64
# Pieces read ahead of the engine.
READ_AHEAD = 4


def model_key(
    file: GGUFFile, program: Program, adapters: Sequence[Adapter], kv_type: str, variant: str
) -> bytes:
    """Hash of everything besides the tokens on which the bytes of a saved sequence depend.

    Weights enter by a sample, the file's size and its modification time; reading them all would take as long
    as loading.
    """
    digest = hashlib.blake2b(digest_size=MODEL_BYTES)
    for text in (LAYOUT, __version__, variant, kv_type, to_text(program)):
        digest.update(f"{text}\0".encode())
    for path in file.paths:
        status = path.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
    for name, info in file.tensors.items():
        data = file.data(name)
        digest.update(f"{name} {info.type.name} {info.shape} {info.offset}\0".encode())
        digest.update(data[:SAMPLE_BYTES].tobytes() + data[-SAMPLE_BYTES:].tobytes())
    for adapter in adapters:
        for name, update in sorted(adapter.updates.items()):
            digest.update(f"{name} {update.scale!r} {update.a.shape} {update.b.shape}\0".encode())
            digest.update(update.a.tobytes() + update.b.tobytes())
    return digest.digest()


class DiskRead:
    """A sequence being read from the disk: its pieces, in order, as they arrive."""

    def __init__(self, pieces: list[Piece], scales: Scales) -> None:
        self.pieces = pieces
        self.scales = scales
        self._n_taken = 0
        self._stopped = threading.Event()
        self._read: queue.Queue[bytes | None] = queue.Queue(READ_AHEAD)

    @property
    def done(self) -> bool:
        """True once no more pieces will arrive."""
        return self._stopped.is_set()

    @property
    def complete(self) -> bool:
        """True once every piece has been taken."""
        return self._n_taken == len(self.pieces)

    def take(self, seconds: float) -> tuple[Piece, bytes | None] | None:
        """The next piece, with None if its file could not be read; None if it has not arrived yet."""
        try:
            payload = self._read.get(timeout=seconds) if seconds else self._read.get_nowait()
        except queue.Empty:
            return None
        self._n_taken += 1
        return self.pieces[self._n_taken - 1], payload

    def stop(self) -> None:
        """Stop reading."""
        self._stopped.set()

    def read_from(self, store: PrefixStore) -> None:
        """Read the pieces until one is missing or the read is stopped; runs on a thread of its own."""
        for piece in self.pieces:
            try:
                payload = store.read(piece)
            except Exception:  # out of memory, say: the taker must not wait forever
                log.exception("cannot read %s", piece.name)
                payload = None
            while not self._stopped.is_set():
                try:
                    self._read.put(payload, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if payload is None or self._stopped.is_set():
                return
        store.touch(self.pieces)


class PrefixDisk:
    """Pieces of one model. model: hash of everything on which their bytes depend."""

    def __init__(
        self, store: PrefixStore, model: bytes, backend: SavingBackend, piece_tokens: int = PIECE_TOKENS
    ) -> None:
        self.store = store
        self._model = model
        self._backend = backend
        self.whole = backend.recurrent or backend.windowed
        self._n_blocks = max(1, piece_tokens // backend.block_tokens)
        # Sequences saved whole are found by comparing tokens.
        self._sequences = store.sequences(model) if self.whole else []

    @property
    def piece_tokens(self) -> int:
        """Tokens of a piece, or the fewest of a sequence that is saved whole."""
        return self._n_blocks * self._backend.block_tokens

    def pieces(self, tokens: array[int], scales: Scales) -> list[Piece]:
        """Pieces to save of a sequence that was computed with these scales of the adapters."""
        if not self.whole:
            return list(chain(self._model, tokens, self.piece_tokens, _root(scales)))
        if len(tokens) < self.piece_tokens:
            return []
        return [make_piece(self._model, _root(scales), 0, tokens)]

    def save(self, sequence: int, pieces: list[Piece], index: int) -> None:
        """Queue one of a sequence's pieces for writing; BackendError if the backend cannot give its bytes."""
        piece = pieces[index]
        if self.whole:
            payload = self._backend.save_sequence(sequence)
            self._sequences.append(piece)
        else:
            payload = self._backend.save_blocks(sequence, index * self._n_blocks, self._n_blocks)
        self.store.put(piece, payload, pieces[:index])

    def find(self, wanted: array[int], scales: Scales = ()) -> list[Piece]:
        """Pieces of the longest saved prefix of a prompt, which never includes its last token."""
        if not self.whole:
            found = []
            for piece in chain(self._model, wanted[:-1], self.piece_tokens, _root(scales)):
                if not self.store.has(piece):
                    break
                found.append(piece)
            return found
        self._sequences = [piece for piece in self._sequences if self.store.has(piece)]
        fitting = [
            piece
            for piece in self._read_with(scales)
            if piece.end < len(wanted) and piece.tokens == wanted[: piece.end]
        ]
        return [max(fitting, key=lambda piece: piece.end)] if fitting else []

    def n_known(self, wanted: array[int], scales: Scales = ()) -> int:
        """Length of the longest prefix that the prompt shares with a sequence saved whole."""
        return max((common_prefix(piece.tokens, wanted) for piece in self._read_with(scales)), default=0)

    def read(self, pieces: list[Piece], scales: Scales) -> DiskRead:
        """Begin to read pieces."""
        read = DiskRead(pieces, scales)
        threading.Thread(
            target=read.read_from, args=(self.store,), name="edgellm-disk-read", daemon=True
        ).start()
        return read

    def restore(self, sequence: int | None, piece: Piece, payload: bytes, scales: Scales) -> int | None:
        """The sequence (None: a new one) with a piece appended; None if the piece does not fit, which is then
        removed.
        """
        backend = self._backend
        opened = sequence
        try:
            if self.whole:
                opened = backend.restore_sequence(payload, scales)
            else:
                opened = backend.open_sequence(scales) if sequence is None else sequence
                backend.append_blocks(opened, payload)
            if backend.sequence_length(opened) == piece.end:
                return opened
        except BackendError as error:
            log.warning("%s: %s", piece.name, error)
        self.store.discard(piece)
        if opened is not None and sequence is None:
            backend.close_sequence(opened)
        elif sequence is not None and backend.sequence_length(sequence) != piece.start:
            backend.truncate_sequence(sequence, piece.start)
        return None

    def _read_with(self, scales: Scales) -> list[Piece]:
        root = _root(scales)
        return [piece for piece in self._sequences if piece.parent == root]


def _root(scales: Scales) -> bytes:
    """Parent key of a sequence's first piece."""
    packed = struct.pack(f"<{len(scales)}d", *scales)
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).digest() if scales else ROOT
