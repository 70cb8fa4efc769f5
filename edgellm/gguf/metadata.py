"""The metadata of a GGUF file: a mapping whose arrays are decoded on first use.

Every length is checked when the file is opened; the Python objects of an array (262,144 strings of a
vocabulary, say) are only made when somebody asks for that key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from mmap import mmap
from typing import NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import FormatError
from edgellm.gguf.types import ValueType

Value: TypeAlias = "int | float | bool | str | list[Value]"

NUMPY_TYPES: dict[ValueType, np.dtype[np.generic]] = {
    ValueType.UINT8: np.dtype("<u1"),
    ValueType.INT8: np.dtype("<i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("<u1"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}

FETCH_AGAIN = "the file is damaged or incomplete: fetch it again"

# Strings are located window by window: small enough for the cache, large enough to amortize NumPy's calls.
_WINDOW_BYTES = 1 << 18
_u64 = struct.Struct("<Q").unpack_from


def refuse(path: str, field: str, found: str, expected: str, advice: str = FETCH_AGAIN) -> NoReturn:
    """Raise the FormatError that says what is wrong with one field of a file."""
    raise FormatError(f"{path}: {field} is {found}, expected {expected}; {advice}")


def show(name: str) -> str:
    """A name from a file as it may be printed: quoted, escaped, cut to a readable length."""
    text = repr(name[:100])
    return text if len(name) <= 100 else f"{text[:80]}... ({len(name)} characters)"


class StringArray(NamedTuple):
    """The strings of an array where they lie in the file.

    data: (file size,) uint8, read-only; starts, lengths: (n,) int64, bytes.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


class ArrayRef(NamedTuple):
    """An array that was bounds-checked and not decoded: where it starts, and its strings if it holds some."""

    element: ValueType
    n: int
    start: int
    strings: StringArray | None


def locate_strings(
    path: str, field: str, data: NDArray[np.uint8], file: mmap, position: int, count: int
) -> tuple[StringArray, int]:
    """Find `count` length-prefixed strings that start at `position`; returns them and where they end.

    Each length says where the next one is, which is slow to follow in Python. A length below 256 is a
    byte and seven zeros, so NumPy guesses all of them at once; the guess holds exactly where each
    guessed string ends at the next guess. What the guess does not explain is followed one by one.

    Raises FormatError where a string leaves the file.
    """
    end = len(data)
    found_starts: list[NDArray[np.int64]] = []
    found_lengths: list[NDArray[np.int64]] = []
    left = count
    while left:
        window = min(position + _WINDOW_BYTES, end)
        if window - position >= 8:
            words = np.ndarray((window - position - 7,), "<u8", file, position, (1,))
            guess = np.flatnonzero(words < 256)
            if guess.size and guess[0] == 0:
                lengths = data[guess + position].astype(np.int64)
                nexts = guess + (lengths + 8)
                wrong = np.flatnonzero(nexts[:-1] != guess[1:])
                n = min(left, int(wrong[0]) + 1 if wrong.size else guess.size)
                found_starts.append(guess[:n] + (position + 8))
                found_lengths.append(lengths[:n])
                left -= n
                position += int(nexts[n - 1])
        starts: list[int] = []
        ends: list[int] = []
        while left and position < window:
            if position + 8 > end:
                break
            starts.append(position + 8)
            position += 8 + _u64(file, position)[0]
            ends.append(position)
            left -= 1
            if position > end:
                break
        if starts and position <= end:
            found_starts.append(np.array(starts, np.int64))
            found_lengths.append(np.array(ends, np.int64) - found_starts[-1])
        if position > end:
            refuse(
                path,
                f"the length of string {count - left - 1} of {field}",
                f"past the end of the file by {position - end} bytes",
                f"at most the file's {end} bytes",
            )
        if left and position + 8 > end:
            refuse(path, f"{field}", f"cut off after {count - left} strings", f"{count} strings")
    if not found_starts:
        empty = np.empty(0, np.int64)
        return StringArray(data, empty, empty), position
    return StringArray(data, np.concatenate(found_starts), np.concatenate(found_lengths)), position


class Metadata(Mapping[str, Value]):
    """The key-value pairs of a GGUF file, in file order; an array becomes a list on first use.

    Getting an array may raise FormatError: text that is not UTF-8, a bool that is neither 0 nor 1.
    """

    def __init__(
        self,
        path: str,
        data: NDArray[np.uint8],
        values: dict[str, Value | ArrayRef],
        types: dict[str, ValueType],
    ) -> None:
        self._path = path
        self._data = data
        self._values = values
        self._types = types
        self._decoded: dict[str, Value] = {}

    def __getitem__(self, key: str) -> Value:
        value = self._values[key]
        if not isinstance(value, ArrayRef):
            return value
        decoded = self._decoded.get(key)
        if decoded is None:
            decoded = self._decoded[key] = self._decode(key, value)
        return decoded

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def value_type(self, key: str) -> ValueType:
        """The type that the file gives `key` (ARRAY for an array); KeyError if it is not there."""
        return self._types[key]

    def element_type(self, key: str) -> ValueType | None:
        """The type of an array's elements, or None where `key` is no array; KeyError if it is not there."""
        value = self._values[key]
        if isinstance(value, ArrayRef):
            return value.element
        return ValueType.ARRAY if isinstance(value, list) else None

    def array_length(self, key: str) -> int | None:
        """The number of elements of an array, without decoding it, or None where `key` is no array."""
        value = self._values[key]
        if isinstance(value, ArrayRef):
            return value.n
        return len(value) if isinstance(value, list) else None

    def strings(self, key: str) -> StringArray:
        """The strings of an array in place, not checked to be UTF-8; KeyError unless it is such an array."""
        value = self._values[key]
        if not isinstance(value, ArrayRef) or value.strings is None:
            raise KeyError(key)
        return value.strings

    def numbers(self, key: str) -> NDArray[np.generic]:
        """A numeric array in place, read-only (bools as uint8); KeyError unless it is such an array."""
        value = self._values[key]
        if not isinstance(value, ArrayRef) or value.strings is not None:
            raise KeyError(key)
        dtype = NUMPY_TYPES[value.element]
        return self._data[value.start : value.start + value.n * dtype.itemsize].view(dtype)

    def _decode(self, key: str, ref: ArrayRef) -> Value:
        if ref.strings is not None:
            return self._decode_strings(key, ref.strings)
        numbers = self.numbers(key)
        if ref.element is not ValueType.BOOL:
            decoded: list[Value] = numbers.tolist()
            return decoded
        bad = np.flatnonzero(numbers.view(np.uint8) > 1)
        if bad.size:
            index = int(bad[0])
            refuse(self._path, f"element {index} of metadata key {show(key)}", f"{numbers[index]}", "0 or 1")
        return [bool(number) for number in numbers.tolist()]

    def _decode_strings(self, key: str, strings: StringArray) -> Value:
        if not strings.starts.size:
            return []
        first = int(strings.starts[0])
        last = int(strings.starts[-1] + strings.lengths[-1])
        text = self._data[first:last].tobytes()
        starts = strings.starts - first
        pairs = zip(starts.tolist(), (starts + strings.lengths).tolist(), strict=True)
        decoded: list[Value] = []
        try:
            decoded.extend(text[start:end].decode() for start, end in pairs)
        except UnicodeDecodeError as error:
            index = len(decoded)
            refuse(
                self._path,
                f"string {index} of metadata key {show(key)}",
                f"{error.object[:32]!r}",
                "valid UTF-8",
            )
        return decoded
