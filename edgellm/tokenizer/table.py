"""The strings of a GGUF array, findable without making a Python object of each.

A Gemma file has 262,144 tokens, a Llama 3 file 280,147 merges. As Python strings in a dict they take
100 to 200 ms and tens of megabytes before the first token; a chat's first prompt looks up a few hundred.
So the native side hashes the strings as bytes, a few milliseconds for all of them.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from edgellm import _native
from edgellm.errors import FormatError, show

Value = int | float | bool | str | Sequence[object]
# Numbers of one C type. Not an array: a start to the first token has no time to import NumPy.
Numbers: TypeAlias = "memoryview[Any]"


class StringsInPlace(Protocol):
    """`n` strings in data, bytes: from `start` on, each a length of 8 bytes, little-endian, and its text."""

    @property
    def data(self) -> memoryview: ...
    @property
    def start(self) -> int: ...
    @property
    def n(self) -> int: ...


@runtime_checkable
class InPlace(Protocol):
    """Metadata that gives out its arrays without decoding them; both raise KeyError for other values."""

    def strings(self, key: str) -> StringsInPlace: ...
    def numbers(self, key: str) -> Numbers: ...


class StringTable:
    """An array of strings: `text(i)`, and `find(text)`, the lowest index of a text."""

    def __init__(self, data: memoryview, start: int, n: int) -> None:
        """As StringsInPlace; ValueError if a string leaves the data, or for more than 4 GiB of them."""
        self.native = _native.StringTable(data, start, n)
        self.raw = self.native.raw  # the bytes of the string at an index
        # The number of bytes of the longest string.
        self.longest = self.native.longest

    @classmethod
    def of(cls, strings: Sequence[str]) -> StringTable:
        """The table of a list of strings."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        data = b"".join(len(raw).to_bytes(8, "little") + raw for raw in encoded)
        return cls(memoryview(data), 0, len(encoded))

    def __len__(self) -> int:
        return len(self.native)

    def text(self, index: int) -> str:
        """One string; bytes that are not UTF-8 are kept as surrogates."""
        return self.raw(index).decode("utf-8", "surrogateescape")

    def find(self, text: str) -> int:
        """The lowest index of `text`, -1 if it is not in the table."""
        return self.native.find(text.encode("utf-8", "surrogateescape"))

    def repeated(self) -> tuple[int, int] | None:
        """The indices of the first string (not the empty one) that occurs again, and of where it does."""
        return self.native.repeated()


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
        _limit(key, found.n, limit)
        try:
            return StringTable(found.data, found.start, found.n)
        except ValueError as error:
            raise FormatError(f"{key} cannot be read, {error}: fetch the file again") from None
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


def numbers(
    metadata: Mapping[str, Value],
    key: str,
    length: int | None = None,
    *,
    low: float = -sys.float_info.max,
    high: float = sys.float_info.max,
    expected: str = "finite numbers",
) -> Numbers | None:
    """The array of numbers from `low` to `high` under `key`, None if there is none.

    Raises FormatError if it is none, has another length, or holds what is not `expected`.
    """
    if key not in metadata:
        return None
    found = _find_numbers(metadata, key)
    if length is not None and len(found) != length:
        raise FormatError(
            f"{key} has {len(found)} entries, expected {length}, one for each token: the file is damaged, "
            "fetch it again"
        )
    wrong = _native.first_outside(found, low, high)
    if wrong >= 0:
        raise FormatError(
            f"{key} holds {found[wrong]:g}, expected {expected}: the file is damaged, fetch it again"
        )
    return found


def integers(
    metadata: Mapping[str, Value], key: str, low: int, high: int, length: int | None = None
) -> Numbers:
    """The array of integers from `low` to `high` under `key`, empty if there is none."""
    expected = f"integers from {low} to {high}"
    found = numbers(metadata, key, length, low=low, high=high, expected=expected)
    if found is None:
        return memoryview(b"")
    if found.format in ("f", "d") and len(found):
        raise FormatError(f"{key} holds fractions, expected {expected}: convert the model anew")
    return found


def _find_numbers(metadata: Mapping[str, Value], key: str) -> Numbers:
    if isinstance(metadata, InPlace):
        try:
            return metadata.numbers(key)
        except KeyError:
            raise FormatError(
                f"{key} is not an array of numbers, as expected: convert the model anew"
            ) from None
    value = metadata[key]
    if isinstance(value, (str, int, float)):
        raise FormatError(f"{key} is {show(value)}, expected an array of numbers: convert the model anew")
    values: Any = value
    for kind in ("q", "d"):
        try:
            return memoryview(array(kind, values))
        except (TypeError, OverflowError):
            continue
    raise FormatError(f"{key} holds something that is not a number: the file is damaged, fetch it again")


def _limit(key: str, length: int, limit: int) -> None:
    if length > limit:
        raise FormatError(f"{key} has {length} entries, at most {limit} are accepted: fetch the file again")
