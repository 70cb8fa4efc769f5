"""Look-ups in a packed array of strings are those of a dict, whatever the strings."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import _native
from edgellm.errors import FormatError
from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer.table import StringTable, Value, integers, numbers, string_table
from tests.support.gguf_builder import GGUFBuilder

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab\0Ġ"), max_size=30)


@given(st.lists(TEXTS, max_size=60), st.lists(TEXTS, max_size=20))
def test_find_is_a_dict(strings: list[str], others: list[str]) -> None:
    table = StringTable.of(strings)
    assert [table.text(i) for i in range(len(table))] == strings
    for text in [*strings, *others]:
        assert table.find(text) == (strings.index(text) if text in strings else -1)
    full = [text for text in strings if text]
    assert (table.repeated() is None) == (len(set(full)) == len(full))


@pytest.mark.parametrize("length", [*range(1, 20), 24, 31, 32, 33, 100])
def test_strings_that_differ_in_one_byte(length: int) -> None:
    base = bytes(65 + i % 20 for i in range(length)).decode()
    strings = [base, *(base[:i] + "~" + base[i + 1 :] for i in range(length))]
    table = StringTable.of(strings)
    assert [table.find(text) for text in strings] == list(range(len(strings)))
    assert table.find("~" * length) == (1 if length == 1 else -1)


def test_the_first_string_that_occurs_again_is_found() -> None:
    strings = [f"samehead{i:06}sametail" for i in range(50_000)]
    table = StringTable.of(strings)
    assert [table.find(text) for text in strings] == list(range(50_000))
    assert table.repeated() is None
    assert StringTable.of([*strings, strings[7], strings[3]]).repeated() == (7, 50_000)
    assert StringTable.of(["", "a", ""]).repeated() is None


def test_strings_that_leave_the_data_are_refused() -> None:
    data = bytes([3, 0, 0, 0, 0, 0, 0, 0]) + b"abc"
    assert StringTable(memoryview(data), 0, 1).raw(0) == b"abc"
    for start, n in ((0, 2), (1, 1), (len(data) + 1, 1)):
        with pytest.raises(ValueError, match="string"):
            StringTable(memoryview(data), start, n)
    with pytest.raises(ValueError, match="string"):
        StringTable(memoryview(b"\xff" * 8), 0, 1)
    with pytest.raises(IndexError):
        StringTable(memoryview(data), 0, 1).raw(1)


def test_bytes_that_are_not_utf8_are_kept() -> None:
    table = StringTable.of(["a\udcffb", "\udc80"])
    assert table.raw(0) == b"a\xffb"
    assert table.text(0) == "a\udcffb"
    assert table.find("\udc80") == 1


def test_arrays_of_a_file_and_of_a_dict_are_the_same(tmp_path: Path) -> None:
    strings = ["a", "", "é" * 200, "日本", "a" * 300]
    values = [3, 1, 4, 1, 5]
    path = GGUFBuilder().kv("s", strings).kv("n", values).kv("x", 1).write(tmp_path / "m.gguf")
    with GGUFFile.open(path) as file:
        sources: list[Mapping[str, Value]] = [file.metadata, {"s": strings, "n": values, "x": 1}]
        for metadata in sources:
            table = string_table(metadata, "s", 10)
            assert [table.text(i) for i in range(len(table))] == strings
            assert table.longest == 400
            assert integers(metadata, "n", 0, 9).tolist() == values
            assert numbers(metadata, "missing") is None
            for key in ("n", "x", "missing"):
                with pytest.raises(FormatError, match=f"^{key} "):
                    string_table(metadata, key, 10)
            for key in ("s", "x"):
                with pytest.raises(FormatError, match=f"^{key} "):
                    numbers(metadata, key)
            with pytest.raises(FormatError, match="s has 5 entries, at most 4"):
                string_table(metadata, "s", 4)
            with pytest.raises(FormatError, match="n has 5 entries, expected 4"):
                numbers(metadata, "n", 4)
            with pytest.raises(FormatError, match="n holds 5, expected integers from 0 to 4"):
                integers(metadata, "n", 0, 4)


@pytest.mark.parametrize("kind", "bBhHiIqQfd")
def test_numbers_of_every_type_are_checked(kind: str) -> None:
    """As `numbers` finds them in a file, where they may lie at any byte."""
    source = array(kind, [0, 7, 3, 120, 1])
    shifted = memoryview(b"x" + source.tobytes())[1:].cast(kind)  # type: ignore[call-overload]
    for values in (memoryview(source), shifted):
        assert _native.first_outside(values, 0, 120) == -1
        assert _native.first_outside(values, 0, 119) == 3
        assert _native.first_outside(values, 1, 200) == 0
        assert _native.first_outside(values[:0], 1, 2) == -1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(value: float) -> None:
    with pytest.raises(FormatError, match="expected finite numbers"):
        numbers({"x": [0.5, value]}, "x")
    with pytest.raises(FormatError, match="expected integers from 0 to 9"):
        integers({"x": [1.0, 2.5]}, "x", 0, 9)
