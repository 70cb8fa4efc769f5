"""The strings of a GGUF array, findable without making a Python object of each.

A Gemma file has 262,144 tokens, a Llama 3 file 280,147 merges. As Python strings in a dict they take
100 to 200 ms and tens of megabytes before the first token; a chat's first prompt looks up a few hundred.
So the strings stay bytes, NumPy sorts a 64-bit key of each (a few milliseconds), and a look-up is a
binary search. Texts so long that the searches would cost more than a dict get the dict.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import FormatError

Value = int | float | bool | str | Sequence[object]

_MASK = (1 << 64) - 1
_HEAD, _TAIL, _LENGTH = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_CHUNK = 16_384
_SEARCHES_PER_STRING = 0.2  # a search costs about as much as five entries of a dict


class StringsInPlace(Protocol):
    """Strings in data, (n_bytes,) uint8: from starts, (n,) int64, for lengths bytes, (n,) int64."""

    @property
    def data(self) -> NDArray[np.uint8]: ...
    @property
    def starts(self) -> NDArray[np.int64]: ...
    @property
    def lengths(self) -> NDArray[np.int64]: ...


@runtime_checkable
class InPlace(Protocol):
    """Metadata that gives out its arrays without decoding them; both raise KeyError for other values."""

    def strings(self, key: str) -> StringsInPlace: ...
    def numbers(self, key: str) -> NDArray[np.generic]: ...


class StringTable:
    """An array of strings: `text(i)`, and `find(text)`, the lowest index of a text."""

    def __init__(self, data: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """`data` ends with 8 bytes that belong to no string."""
        self._data = data
        self._starts = starts.astype(np.uint32).data  # of at most 128 MiB, as the reader sees to
        self._ends = (starts + lengths).astype(np.uint32).data
        self._longest = int(lengths.max(initial=0))
        keys = _keys(data, starts, lengths)
        order = np.argsort(keys)
        keys = keys[order]
        same = np.flatnonzero(keys[1:] == keys[:-1])
        self._alike: list[int] = np.unique(np.concatenate((order[same], order[same + 1]))).tolist()
        self._keys = keys.data
        self._order = order.astype(np.uint32).data
        self._known: dict[str, int] = {}
        self._searches_left = int(len(keys) * _SEARCHES_PER_STRING)
        self._complete = False

    @classmethod
    def of(cls, strings: Sequence[str]) -> StringTable:
        """The table of a list of strings."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        lengths = np.array([len(raw) for raw in encoded], np.int64)
        starts = np.cumsum(lengths) - lengths
        return cls(b"".join(encoded) + bytes(8), starts, lengths)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def longest(self) -> int:
        """The number of bytes of the longest string."""
        return self._longest

    def raw(self, index: int) -> bytes:
        """The bytes of one string."""
        return self._data[self._starts[index] : self._ends[index]]

    def text(self, index: int) -> str:
        """One string; bytes that are not UTF-8 are kept as surrogates."""
        return self.raw(index).decode("utf-8", "surrogateescape")

    def find(self, text: str) -> int:
        """The lowest index of `text`, -1 if it is not in the table."""
        found = self._known.get(text)
        if found is not None:
            return found
        if self._complete or len(text) > self._longest:
            return -1
        if self._searches_left <= 0:
            self._known = self._all()
            self._complete = True
            return self._known.get(text, -1)
        raw = text.encode("utf-8", "surrogateescape")
        key = _key(raw)
        found = -1
        position = bisect_left(self._keys, key)
        while position < len(self._keys) and self._keys[position] == key:
            self._searches_left -= 1  # a file made to collide soon gets the dict
            index = self._order[position]
            if (found < 0 or index < found) and self.raw(index) == raw:
                found = index
            position += 1
        self._known[text] = found
        return found

    def repeated(self) -> tuple[int, int] | None:
        """The indices of a string (not the empty one) that occurs twice, None if all differ."""
        seen: dict[bytes, int] = {}
        for index in self._alike:
            raw = self.raw(index)
            first = seen.setdefault(raw, index)
            if raw and first != index:
                return first, index
        return None

    def _all(self) -> dict[str, int]:
        pairs = zip(self._starts.tolist(), self._ends.tolist(), strict=True)
        texts = [self._data[start:end].decode("utf-8", "surrogateescape") for start, end in pairs]
        # Backwards, so that of equal strings the first counts.
        return dict(zip(reversed(texts), range(len(texts) - 1, -1, -1), strict=True))


def string_table(metadata: Mapping[str, Value], key: str, limit: int) -> StringTable:
    """The table of the array of strings under `key`; FormatError if it is not one, or longer than `limit`."""
    if key not in metadata:
        raise FormatError(f"{key} is missing, expected an array of strings: convert the model anew")
    if isinstance(metadata, InPlace):
        try:
            found = metadata.strings(key)
        except KeyError:
            raise FormatError(
                f"{key} is not an array of strings, as expected: convert the model anew"
            ) from None
        _limit(key, len(found.starts), limit)
        if not len(found.starts):
            return StringTable.of([])
        first = int(found.starts[0])
        data = found.data[first : int(found.starts[-1] + found.lengths[-1])].tobytes() + bytes(8)
        return StringTable(data, found.starts - first, found.lengths)
    return StringTable.of(strings(metadata, key, limit))


def strings(metadata: Mapping[str, Value], key: str, limit: int) -> list[str]:
    """The array of strings under `key` as a list."""
    value = metadata.get(key)
    if value is None or isinstance(value, (str, int, float)):
        found = "missing" if value is None else f"a {type(value).__name__}"
        raise FormatError(f"{key} is {found}, expected an array of strings: convert the model anew")
    _limit(key, len(value), limit)
    result: list[str] = []
    for entry in value:
        if not isinstance(entry, str):
            raise FormatError(
                f"{key} holds a {type(entry).__name__}, expected only strings: the file is damaged, "
                "fetch it again"
            )
        result.append(entry)
    return result


def numbers(metadata: Mapping[str, Value], key: str, length: int | None = None) -> NDArray[np.float64] | None:
    """The array of numbers under `key`, None if there is none; FormatError if it has another length."""
    if key not in metadata:
        return None
    if isinstance(metadata, InPlace):
        try:
            array = np.asarray(metadata.numbers(key))
        except KeyError:
            raise FormatError(
                f"{key} is not an array of numbers, as expected: convert the model anew"
            ) from None
    else:
        value = metadata[key]
        if isinstance(value, (str, int, float)):
            raise FormatError(
                f"{key} is a {type(value).__name__}, expected an array of numbers: convert the model anew"
            )
        array = np.asarray(value) if len(value) else np.empty(0)
        if array.dtype.kind not in "iufb" or array.ndim != 1:
            raise FormatError(
                f"{key} holds something that is not a number: the file is damaged, fetch it again"
            )
    if length is not None and len(array) != length:
        raise FormatError(
            f"{key} has {len(array)} entries, expected {length}, one for each token: the file is damaged, "
            "fetch it again"
        )
    return array.astype(np.float64)


def integers(
    metadata: Mapping[str, Value], key: str, low: int, high: int, length: int | None = None
) -> list[int]:
    """The array of integers from `low` to `high` under `key`, empty if there is none."""
    array = numbers(metadata, key, length)
    if array is None:
        return []
    wrong = array[~((array >= low) & (array <= high) & (array == np.floor(array)))]
    if len(wrong):
        raise FormatError(
            f"{key} holds {wrong[0]:g}, expected integers from {low} to {high}: the file is damaged, "
            "fetch it again"
        )
    result: list[int] = array.astype(np.int64).tolist()
    return result


def _limit(key: str, length: int, limit: int) -> None:
    if length > limit:
        raise FormatError(f"{key} has {length} entries, at most {limit} are accepted: fetch the file again")


def _keys(data: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """`_key` of every string: (n,) uint64."""
    words = np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))
    masks = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)
    keys = np.empty(len(starts), np.uint64)
    for first in range(0, len(starts), _CHUNK):  # so that the temporaries stay in the cache
        start, length = starts[first : first + _CHUNK], lengths[first : first + _CHUNK]
        short = np.minimum(length, 8)
        mixed = (words[start] & masks[short]) * np.uint64(_HEAD)
        mixed ^= np.where(short == 8, words[start + length - short], np.uint64(0)) * np.uint64(_TAIL)
        keys[first : first + _CHUNK] = mixed + length.astype(np.uint64) * np.uint64(_LENGTH)
    return keys


def _key(raw: bytes) -> int:
    """A number that strings of different length, first or last eight bytes seldom share."""
    head = int.from_bytes(raw[:8], "little") * _HEAD
    tail = int.from_bytes(raw[-8:], "little") * _TAIL if len(raw) >= 8 else 0
    return ((head ^ tail) + len(raw) * _LENGTH) & _MASK
