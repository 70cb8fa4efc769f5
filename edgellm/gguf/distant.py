"""Headers of GGUF files that are elsewhere, read by as few bytes as they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgellm.errors import FormatError, size_text
from edgellm.gguf.header import Header, parse_header
from edgellm.gguf.metadata import HeaderCutError
from edgellm.gguf.reader import GGUFFile

ReadRange = Callable[[str, int, int], tuple[bytes, int]]
"""Bytes of the named file from `start` up to `end` (fewer where it ends), and the size of the whole file."""

# Vocabularies make headers of 2 to 12 MB.
_FIRST_BYTES = 1 << 20
_MOST_BYTES = 128 << 20


def read_distant(names: Sequence[str], read: ReadRange) -> GGUFFile:
    """A model by the headers of its files (several if it is split), for plans and estimates.

    Raises FormatError for a malformed header or one of more than 128 MiB, and as `read` does.
    """
    return GGUFFile.of_headers([(Path(name), _header(name, read)) for name in names])


def _header(name: str, read: ReadRange) -> Header:
    data, size = read(name, 0, _FIRST_BYTES)
    while True:
        try:
            return parse_header(name, data, size)
        except HeaderCutError as cut:
            # Headers are read to their end: half as much again asks seldom and wastes little.
            end = min(max(cut.needed, len(data) * 3 // 2), size)
        if end > _MOST_BYTES:
            raise FormatError(f"{name}: the header has more than {size_text(_MOST_BYTES)}, expected less")
        more, _ = read(name, len(data), end)
        if not more:
            raise FormatError(f"{name}: the header ends after {len(data)} bytes; fetch the file again")
        data += more
