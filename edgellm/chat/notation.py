"""Values as templates write them: JSON, Python, a notation with marks of its own for strings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgellm.chat.syntax import Arguments, Notation

_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "0": "\0",
    "\n": "",
    **{sign: sign for sign in "\"'\\/"},
}
_BARE = re.compile(r"[^,\]})]*")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
MAX_DEPTH = 64


class NotationError(ValueError):
    """A text is no value in its notation."""


def plain_form(notation: Notation) -> Arguments:
    """Arguments as one value in JSON or as Python prints it."""
    words = ("True", "False", "None") if notation == "python" else ("true", "false", "null")
    return Arguments(strings=notation, values=notation, words=words)


def write_arguments(form: Arguments, arguments: Mapping[str, Any]) -> str:
    """A call's arguments as a model would write them."""
    if form.kind == "object":
        return write_value(form, dict(arguments))
    pairs = []
    for key, value in arguments.items() if form.ordered else sorted(arguments.items()):
        text = isinstance(value, str)
        middle = form.text_middle if text else form.middle
        tail = form.tail_of(key, text=text)
        pairs.append(
            form.head + key + middle + _written_text(form, value) + tail
            if text
            else form.head + key + middle + write_value(form, value) + tail
        )
    return form.open + form.separator.join(pairs) + form.close


def _written_text(form: Arguments, value: str) -> str:
    """A string among pairs, without the quotes around it."""
    if form.strings in ("raw", "own"):
        return value
    return (repr(value) if form.strings == "python" else json.dumps(value, ensure_ascii=False))[1:-1]


def write_value(form: Arguments, value: Any) -> str:
    """A value in the notation of values."""
    if isinstance(value, str):
        if form.values == "own":
            return form.quotes[0] + value + form.quotes[1]
        return repr(value) if form.values == "python" else json.dumps(value, ensure_ascii=False)
    if value is True or value is False or value is None:
        return form.words[(True, False, None).index(value)]
    if isinstance(value, list) and form.lists is not None:
        return write_value(plain_form(form.lists), value)
    if isinstance(value, list | dict) and form.values == "json":
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ("," if form.values == "own" else ", ").join(write_value(form, v) for v in value) + "]"
    if isinstance(value, dict):
        if form.values == "own":
            pairs = sorted(value.items()) if not form.ordered else list(value.items())
            return "{" + ",".join(f"{k}:{write_value(form, v)}" for k, v in pairs) + "}"
        return "{" + ", ".join(f"{k!r}: {write_value(form, v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def read_value(text: str, quotes: tuple[str, str] = ('"', '"')) -> Any:
    """A whole value in any of the notations; NotationError if it is none."""
    value, end = _read(text, _space(text, 0), quotes, 0)
    if text[end:].strip():
        raise NotationError(f"{text[end : end + 20]!r} follows a value")
    return value


def _space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _read(text: str, place: int, quotes: tuple[str, str], depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise NotationError("a value nests too deep")
    if quotes[0] not in ('"', "'") and text.startswith(quotes[0], place):
        start = place + len(quotes[0])
        end = text.find(quotes[1], start)
        if end < 0:
            raise NotationError("a string has no end")
        return text[start:end], end + len(quotes[1])
    sign = text[place : place + 1]
    if sign in ('"', "'") and sign:
        return _read_string(text, place)
    if sign in ("[", "("):
        return _read_list(text, place, quotes, depth)
    if sign == "{":
        return _read_object(text, place, quotes, depth)
    bare = _BARE.match(text, place)
    assert bare is not None
    word = bare[0].strip()
    if word in _CONSTANTS:
        return _CONSTANTS[word], bare.end()
    if _NUMBER.fullmatch(word):
        return _number(word), bare.end()
    if not word:
        raise NotationError("a value is missing")
    return word, bare.end()


def _number(word: str) -> int | float:
    try:
        return int(word)
    except ValueError:
        return float(word)


def _read_string(text: str, place: int) -> tuple[str, int]:
    quote = text[place]
    pieces: list[str] = []
    place += 1
    while place < len(text):
        sign = text[place]
        if sign == quote:
            return _whole("".join(pieces)), place + 1
        if sign != "\\":
            end = place + 1
            while end < len(text) and text[end] not in (quote, "\\"):
                end += 1
            pieces.append(text[place:end])
            place = end
            continue
        kind = text[place + 1 : place + 2]
        digits = {"x": 2, "u": 4, "U": 8}.get(kind, 0)
        if digits:
            try:
                pieces.append(chr(int(text[place + 2 : place + 2 + digits], 16)))
            except (ValueError, OverflowError):
                raise NotationError("a string has a broken escape") from None
        else:
            pieces.append(_ESCAPES.get(kind, "\\" + kind))  # as in Python, others are no escapes
        place += 2 + digits
    raise NotationError("a string has no end")


def _whole(text: str) -> str:
    """The text with surrogate pairs as the characters that they stand for."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


def _read_list(text: str, place: int, quotes: tuple[str, str], depth: int) -> tuple[list[Any], int]:
    close = "]" if text[place] == "[" else ")"
    items: list[Any] = []
    place = _space(text, place + 1)
    while not text.startswith(close, place):
        value, place = _read(text, place, quotes, depth + 1)
        items.append(value)
        place = _space(text, place)
        if text.startswith(",", place):
            place = _space(text, place + 1)
        elif not text.startswith(close, place):
            raise NotationError("a list has no end")
    return items, place + 1


def _read_object(text: str, place: int, quotes: tuple[str, str], depth: int) -> tuple[dict[str, Any], int]:
    result: dict[str, Any] = {}
    place = _space(text, place + 1)
    while not text.startswith("}", place):
        if text[place : place + 1] in ('"', "'") or text.startswith(quotes[0], place):
            key, place = _read(text, place, quotes, depth + 1)
            place = _space(text, place)
        else:
            end = text.find(":", place)
            if end < 0:
                raise NotationError("an object has no end")
            key, place = text[place:end].strip(), end
        if not text.startswith(":", place):
            raise NotationError("a key has no value")
        value, place = _read(text, _space(text, place + 1), quotes, depth + 1)
        result[str(key)] = value
        place = _space(text, place)
        if text.startswith(",", place):
            place = _space(text, place + 1)
        elif not text.startswith("}", place):
            raise NotationError("an object has no end")
    return result, place + 1


def object_at(
    text: str, place: int, quotes: tuple[str, str] = ('"', '"')
) -> tuple[dict[str, Any], int] | None:
    """An object that begins at `place` and where it ends; None if none does."""
    try:
        return _read_object(text, place, quotes, 0)
    except NotationError:
        return None
