"""The metadata of a GGUF file: a mapping whose arrays are decoded on first use.

Every length is checked when the file is opened; the Python objects of an array (262,144 strings of a
vocabulary, say) are only made when somebody asks for that key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias

from edgellm._native import read_strings, skip_strings
from edgellm.errors import FormatError, show
from edgellm.gguf.types import ValueType

Value: TypeAlias = "int | float | bool | str | list[Value]"

SCALARS: dict[ValueType, struct.Struct] = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<B"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}

_NEEDED = ("general.architecture", "general.type")
FETCH_AGAIN = "the file is damaged or incomplete: fetch it again"


def refuse(path: str, field: str, found: str, expected: str, advice: str = FETCH_AGAIN) -> NoReturn:
    """Raise the FormatError that says what is wrong with one field of a file."""
    raise FormatError(f"{path}: {field} is {found}, expected {expected}; {advice}")


def is_needed(key: str) -> bool:
    """True for keys whose text decides how a model runs and must be UTF-8; others may be damaged."""
    return key in _NEEDED or key.startswith(("tokenizer.", "edgellm.", "split.", "adapter."))


class StringArray(NamedTuple):
    """`n` strings in the bytes of a file: from `start` on, each a length of 8 bytes and its text."""

    data: memoryview
    start: int
    n: int


class ArrayRef(NamedTuple):
    """An array that was bounds-checked and not decoded: `n` elements from byte `start` on."""

    element: ValueType
    n: int
    start: int


class HeaderCutError(Exception):
    """The bytes at hand end inside the header; `needed` are the least that go on."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"the header goes on past byte {needed - 1}")
        self.needed = needed


def end_of_strings(path: str, field: str, data: memoryview, start: int, count: int, size: int) -> int:
    """The byte where `count` strings that begin at `start` end; FormatError if one leaves the file.

    size: bytes of the file, of which `data` may be the beginning; HeaderCutError if that is too short.
    """
    whole, position = skip_strings(data, start, count)
    if whole == count:
        return position
    if len(data) < size:
        raise HeaderCutError(len(data) + 8 * (count - whole))
    if position + 8 > len(data):
        refuse(path, f"{field}", f"cut off after {whole} strings", f"{count} strings")
    (length,) = SCALARS[ValueType.UINT64].unpack_from(data, position)
    refuse(
        path,
        f"the length of string {whole} of {field}",
        f"past the end of the file by {position + 8 + length - len(data)} bytes",
        f"at most the file's {len(data)} bytes",
    )


class Metadata(Mapping[str, Value]):
    """The key-value pairs of a GGUF file, in file order; an array becomes a list on first use.

    Getting an array may raise FormatError: text of a needed key that is not UTF-8, a bool neither 0 nor 1.
    """

    def __init__(
        self,
        path: str,
        data: memoryview,
        values: dict[str, Value | ArrayRef],
        types: dict[str, ValueType],
        warnings: list[str] | None = None,
    ) -> None:
        self.warnings: list[str] = [] if warnings is None else warnings
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
        if not isinstance(value, ArrayRef) or value.element is not ValueType.STRING:
            raise KeyError(key)
        return StringArray(self._data, value.start, value.n)

    def numbers(self, key: str) -> memoryview[Any]:
        """A numeric array in place, read-only (bools as uint8); KeyError unless it is such an array."""
        value = self._values[key]
        if not isinstance(value, ArrayRef) or value.element is ValueType.STRING:
            raise KeyError(key)
        form = SCALARS[value.element]
        kind: Any = form.format[-1]
        array: memoryview[Any] = self._data[value.start : value.start + value.n * form.size].cast(kind)
        return array

    def _decode(self, key: str, ref: ArrayRef) -> Value:
        if ref.element is ValueType.STRING:
            return self._decode_strings(key, ref)
        form = SCALARS[ref.element]
        numbers = struct.unpack_from(f"<{ref.n}{form.format[-1]}", self._data, ref.start)
        if ref.element is not ValueType.BOOL:
            return list(numbers)
        for index, number in enumerate(numbers):
            if number > 1:
                refuse(self._path, f"element {index} of metadata key {show(key)}", f"{number}", "0 or 1")
        return [bool(number) for number in numbers]

    def _decode_strings(self, key: str, ref: ArrayRef) -> Value:
        decoded: list[Value] = []
        if not is_needed(key):
            return [raw.decode("utf-8", "replace") for raw in read_strings(self._data, ref.start, ref.n)]
        try:
            decoded.extend(map(bytes.decode, read_strings(self._data, ref.start, ref.n)))
        except UnicodeDecodeError as error:
            refuse(
                self._path,
                f"string {len(decoded)} of metadata key {show(key)}",
                f"{error.object[:32]!r}",
                "valid UTF-8",
            )
        return decoded
