"""Prefix cache: finished sequences, kept so that a prompt with the same prefix is not computed again.

Most backends share blocks of tokens between sequences, and a fork of a cached sequence costs at most one
block there. Cached sequences are closed in order of use when blocks are needed. Recurrent and windowed models
cannot be truncated to any earlier position. For them the cache holds checkpoints: copies at the end of each
prompt, and at positions at which two prompts differed.

With a disk, cached sequences are also saved there in pieces, and read back when a prompt begins like one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgellm.backends.base import Backend, blocks_for
from edgellm.engine.adapters import Scales
from edgellm.errors import BackendError

if TYPE_CHECKING:
    from edgellm.engine.prefix_disk import DiskRead, PrefixDisk
    from edgellm.engine.prefix_store import Piece

# Pieces taken from the disk between two steps. Copying one takes about a millisecond or less.
DISK_READ_PIECES = 4


class Match(NamedTuple):
    """A sequence that shares its first `n_tokens` tokens with the prompt; `whole`: it holds no others."""

    sequence: int
    n_tokens: int
    whole: bool


class Start(NamedTuple):
    """A sequence that holds the first `n_tokens` of a prompt.

    n_known: length of the longest prefix seen before, even if no sequence could be made of it.
    """

    sequence: int
    n_tokens: int
    n_known: int


class CachedSequence:
    """Tokens of a cached sequence, and the scales of the adapters with which they were computed.

    n_saved: number of its pieces that have been saved to disk.
    """

    def __init__(
        self, tokens: array[int], scales: Scales, pieces: list[Piece] | None = None, n_saved: int = 0
    ) -> None:
        self.tokens = tokens
        self.scales = scales
        self.pieces = pieces
        self.n_saved = n_saved


class PrefixCache:
    """Cached sequences of one backend, at most `max_cached`; 0 caches none.

    min_tokens: shortest prefix that is worth a fork. disk: where cached sequences are saved.
    """

    def __init__(
        self, backend: Backend, *, max_cached: int, min_tokens: int = 16, disk: PrefixDisk | None = None
    ) -> None:
        self._backend = backend
        self._max_cached = max_cached
        self._min_tokens = min_tokens
        self._cached: dict[int, CachedSequence] = {}  # in order of use, the least recent first
        self._disk = disk if max_cached else None
        self._disk_read: DiskRead | None = None
        self._arriving: tuple[int, CachedSequence] | None = None  # the sequence being read

    @property
    def needs_checkpoints(self) -> bool:
        """True if the backend cannot truncate a sequence anywhere, so that copies are kept at useful
        positions.
        """
        return self._backend.recurrent or self._backend.windowed

    def __len__(self) -> int:
        return len(self._cached)

    def add(self, sequence: int, tokens: Sequence[int], scales: Scales = ()) -> None:
        """Take over a sequence that holds exactly `tokens`, computed with the adapters' `scales`.

        Cached sequences that have become useless are closed.
        """
        held = CachedSequence(array("i", tokens), scales)
        if len(tokens) < self._min_tokens or self._max_cached == 0:
            self._backend.close_sequence(sequence)
            return
        if not self.needs_checkpoints:
            # A cached sequence that is a prefix of this one serves no prompt that this one does not.
            for other, theirs in list(self._cached.items()):
                if theirs.scales == scales and theirs.tokens == held.tokens[: len(theirs.tokens)]:
                    self._close(other)
        self._cached[sequence] = held
        while len(self._cached) > self._max_cached:
            self.evict()

    def checkpoint(self, sequence: int, tokens: Sequence[int], scales: Scales = ()) -> None:
        """Cache a copy of a running sequence, if that needs no other one to be closed."""
        room = self._backend.free_blocks >= self._backend.fork_blocks(len(tokens))
        if len(tokens) >= self._min_tokens and self._max_cached > 0 and room:
            self.add(self._backend.fork_sequence(sequence, len(tokens)), tokens, scales)

    def acquire(
        self, prompt: Sequence[int], live: Iterable[tuple[int, Sequence[int]]], scales: Scales = ()
    ) -> Start:
        """Open a sequence that begins with the longest prefix of the prompt that is held anywhere.

        The last token is always left to compute, because its logits are needed. live: (sequence, its tokens)
        of the running sequences with these `scales` of the adapters.
        """
        wanted = array("i", prompt)
        matches = sorted(
            self._matches(wanted, live, scales), key=lambda m: (m.n_tokens, m.whole), reverse=True
        )
        n_known = matches[0].n_tokens if matches else 0
        if self._disk is not None:
            n_known = max(n_known, self._disk.n_known(wanted, scales))
        for match in matches:
            sequence = self._begin(match)
            if sequence is not None:
                return Start(sequence, match.n_tokens, n_known)
        return Start(self._backend.open_sequence(scales), 0, n_known)

    def _begin(self, match: Match) -> int | None:
        """Open a sequence that holds just the matching tokens; None if the backend cannot make one."""
        held = self._cached.pop(match.sequence, None)
        if held is not None:
            if match.whole and not self.needs_checkpoints:
                return match.sequence
            self._cached[match.sequence] = held  # most recently used
        if self._backend.recurrent and not match.whole:
            return None
        has_room = self.make_room(self._backend.fork_blocks(match.n_tokens), keep=match.sequence)
        try:
            if has_room:
                return self._backend.fork_sequence(match.sequence, match.n_tokens)
            if held is not None:
                self._backend.truncate_sequence(match.sequence, match.n_tokens)
                del self._cached[match.sequence]
                return match.sequence
        except BackendError:  # the window has passed these tokens
            return None
        return None

    def make_room(self, n_blocks: int, keep: int | None = None) -> bool:
        """Close cached sequences, except `keep`, until `n_blocks` are free; False if that is not enough."""
        while self._backend.free_blocks < n_blocks:
            if not self.evict(keep):
                return False
        return True

    def evict(self, keep: int | None = None) -> bool:
        """Close the least recently used cached sequence other than `keep`; False if there is none."""
        oldest = next((sequence for sequence in self._cached if sequence != keep), None)
        if oldest is None:
            return False
        self._close(oldest)
        return True

    def clear(self) -> None:
        """Close every cached sequence."""
        self._end_disk_read()
        while self.evict():
            pass

    @property
    def reads_disk(self) -> bool:
        """True while a sequence is read from the disk."""
        return self._disk_read is not None

    def find_on_disk(self, prompt: array[int], scales: Scales = ()) -> list[Piece]:
        """Pieces on disk that make up a prefix of a prompt."""
        return self._disk.find(prompt, scales) if self._disk else []

    def read_disk(
        self,
        pieces: list[Piece],
        prompt: array[int],
        live: Iterable[tuple[int, Sequence[int]]],
        scales: Scales = (),
    ) -> DiskRead | None:
        """Begin to read a prompt's prefix from the disk, unless memory holds about as much of it."""
        n_held = max((match.n_tokens for match in self._matches(prompt, live, scales)), default=0)
        if self._disk is None or pieces[-1].end - n_held < self._disk.piece_tokens:
            return None
        self._disk_read = self._disk.read(pieces, scales)
        return self._disk_read

    def poll(self, seconds: float = 0.0) -> None:
        """Take the pieces that the disk has read; wait up to `seconds` for the first one."""
        for index in range(DISK_READ_PIECES):
            if self._disk_read is None:
                return
            taken = self._disk_read.take(seconds if index == 0 else 0.0)
            if taken is None:
                return
            piece, payload = taken
            if payload is None or not self._take(piece, payload) or self._disk_read.complete:
                self._end_disk_read()

    def save_some(self, *, idle: bool, wait: bool = False) -> bool:
        """Save one piece of a cached sequence, if the disk is ready for one; True if more pieces are left.

        idle: no request runs, so that a whole sequence may be saved. wait: wait until the disk is ready.
        """
        if self._disk is None or (self._disk.whole and not idle):
            return False
        for sequence, cached in reversed(self._cached.items()):
            if cached.pieces is None:
                cached.pieces = self._disk.pieces(cached.tokens, cached.scales)
            while cached.n_saved < len(cached.pieces):
                if self._disk.store.has(cached.pieces[cached.n_saved]):
                    cached.n_saved += 1
                    continue
                if wait or not self._disk.store.busy:
                    self._disk.save(sequence, cached.pieces, cached.n_saved)
                    cached.n_saved += 1
                return True
        return False

    def _take(self, piece: Piece, payload: bytes) -> bool:
        """Append a piece to the sequence that is read from the disk; False if that cannot go on."""
        assert self._disk is not None
        assert self._disk_read is not None
        sequence = None
        if self._arriving is not None:
            sequence, cached = self._arriving
            if self._cached.get(sequence) is not cached:
                return False  # it was evicted, or a request has taken it over
        n_blocks = blocks_for(piece.start, len(piece.tokens), self._backend.block_tokens)
        if not self.make_room(n_blocks, keep=sequence):
            return False
        sequence = self._disk.restore(sequence, piece, payload, self._disk_read.scales)
        if sequence is None:
            return False
        if self._arriving is None:
            self._arriving = sequence, CachedSequence(piece.tokens, self._disk_read.scales)
            self._cached[sequence] = self._arriving[1]
            while len(self._cached) > self._max_cached:
                self.evict(sequence)
        else:
            cached = self._arriving[1]
            cached.tokens, cached.pieces = cached.tokens + piece.tokens, None
        return True

    def _end_disk_read(self) -> None:
        if self._disk_read is not None:
            self._disk_read.stop()
        if self._arriving is not None and self._cached.get(self._arriving[0]) is self._arriving[1]:
            sequence, cached = self._arriving
            del self._cached[sequence]
            self.add(sequence, cached.tokens, cached.scales)
        self._disk_read = self._arriving = None

    def _matches(
        self, wanted: array[int], live: Iterable[tuple[int, Sequence[int]]], scales: Scales
    ) -> Iterator[Match]:
        cached = [(s, held.tokens) for s, held in self._cached.items() if held.scales == scales]
        candidates = [*cached, *((s, array("i", tokens)) for s, tokens in live)]
        for sequence, held in candidates:
            n_tokens = min(common_prefix(held, wanted), len(wanted) - 1)
            if n_tokens >= self._min_tokens:
                yield Match(sequence, n_tokens, whole=n_tokens == len(held))

    def _close(self, sequence: int) -> None:
        del self._cached[sequence]
        self._backend.close_sequence(sequence)


def common_prefix(a: array[int], b: array[int]) -> int:
    """Number of equal tokens at the beginning of both."""
    known, most = 0, min(len(a), len(b))
    # Binary search: slices are compared at the speed of memory, tokens at that of Python.
    while known < most:
        end = (known + most + 1) // 2
        if a[known:end] == b[known:end]:
            known = end
        else:
            most = end - 1
    return known
