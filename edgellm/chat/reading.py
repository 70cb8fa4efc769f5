"""Reads a call's arguments as they come, and gives them on as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.chat.notation import NotationError, read_value
from edgellm.chat.syntax import Arguments, match

_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}
MAX_KEY = 400


class Bad(Exception):
    """A text is not a call's arguments."""


class _Scan:
    """Finds the first sign outside of strings and brackets that ends a value; goes on where it was."""

    def __init__(self, quotes: tuple[str, str]) -> None:
        self._quotes = quotes
        self._place, self._depth, self._inside = 0, 0, ""

    def find(self, text: str, ends: Sequence[str]) -> int:
        """Place of the first of `ends`; -1 if more text is needed. They are closing signs or separators."""
        open_mark, close_mark = self._quotes
        longest = max(map(len, (open_mark, close_mark, *ends)))
        while self._place < len(text):
            place = self._place
            if not self._inside and not self._depth and any(text.startswith(end, place) for end in ends):
                return place
            if len(text) - place < longest and any(
                mark.startswith(text[place:]) for mark in (open_mark, close_mark, *ends)
            ):
                return -1
            self._step(text, place, open_mark, close_mark)
        return -1

    def _step(self, text: str, place: int, open_mark: str, close_mark: str) -> None:
        sign = text[place]
        size = 1
        if self._inside:
            if text.startswith(self._inside, place):
                size, self._inside = len(self._inside), ""
            elif sign == "\\" and self._inside in ('"', "'"):
                size = 2
        elif text.startswith(open_mark, place) and open_mark not in ('"', "'"):
            size, self._inside = len(open_mark), close_mark
        elif sign in ('"', "'") and open_mark in ('"', "'"):
            self._inside = sign
        elif sign in "[{(":
            self._depth += 1
        elif sign in "]})":
            self._depth -= 1
        self._place = place + size

    @property
    def depth(self) -> int:
        """Number of open brackets."""
        return self._depth


class ArgumentReader:
    """Reads arguments that are written one by one; `ends` are the texts that may follow the last."""

    def __init__(self, form: Arguments, ends: Sequence[str], schema: Mapping[str, Any] | None) -> None:
        self._form = form
        self._ends = ends
        self._schema = schema
        self._opened = False
        self._n = 0
        self._key: str | None = None
        self._is_text = False
        self._scan: _Scan | None = None
        self._searched = 0

    def read(self, text: str, final: bool) -> tuple[str, int, bool]:
        """(JSON to give on, characters used, True at the end) of the text so far; Bad if it is none."""
        out, start = "", 0
        if not self._opened:
            at = match(self._form.open, text)
            if at == -1 and not final:
                return "", 0, False
            start = at if at is not None and at >= 0 else 0
            self._opened = True
        while True:
            if self._key is None:
                step = self._read_key(text[start:], final)
            else:
                step = self._read_pair(text[start:], final)
            if step is None:
                return out, start, False
            added, used, ended = step
            out, start = out + added, start + used
            if ended:
                return out, start, True

    def _read_key(self, text: str, final: bool) -> tuple[str, int, bool] | None:
        """A key, or the end of the arguments."""
        form = self._form
        lead = form.head if self._n == 0 else form.separator + form.head
        waits = False
        for end in self._ends:
            at = match(end, text)
            if at is not None and at >= 0:
                return self._close()
            waits = waits or at == -1
        at = match(lead, text) if lead.strip() else _spaces(text)
        if at is None or (final and (at == -1 or not text.strip())):
            if final or not waits:
                return self._close()
            return None
        if at == -1 or waits:
            return None
        for middle in (
            (form.middle,)
            if form.text_middle.startswith(form.middle)
            else (
                form.text_middle,
                form.middle,
            )
        ):
            core = middle.strip() or middle
            found = text.find(core, at)
            if found >= 0 and found - at <= MAX_KEY and "\n" not in text[at:found].strip():
                other = form.text_middle if middle == form.middle else form.middle
                nearer = text.find(other.strip() or other, at)
                if 0 <= nearer < found and not form.text_middle.startswith(form.middle):
                    continue
                self._key = text[at:found].strip()
                self._is_text = middle == form.text_middle and middle != form.middle
                self._scan, self._searched = None, 0
                used = found + len(core)
                return "", used, False
        if len(text) - at > MAX_KEY or final:
            raise Bad
        return None

    def _read_pair(self, text: str, final: bool) -> tuple[str, int, bool] | None:
        form = self._form
        tail = form.tail_of(self._key or "", text=self._is_text)
        found = self._value_end(text, tail)
        if found < 0:
            if not final:
                return None
            found = len(text)
        middle = form.text_middle if self._is_text else form.middle
        written = text[:found]
        space = middle[len(middle.rstrip()) :]
        written = written.removeprefix(space) if form.strings == "raw" else written.strip()
        lead = tail[: len(tail) - len(tail.lstrip())]
        if form.strings == "raw" and lead and tail.strip():
            written = written.removesuffix(lead)
        value = self._value(written)
        key, self._key = self._key, None
        start = "{" if self._n == 0 else ", "
        self._n += 1
        used = found + (len(tail.strip() or tail) if text[found:] else 0)
        pair = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        return start + pair, used, False

    def _value_end(self, text: str, tail: str) -> int:
        form = self._form
        core = tail.strip() or tail
        if core and form.strings == "raw":
            found = text.find(core, self._searched)
            self._searched = max(0, len(text) - len(core) + 1)
            return found
        if self._scan is None:
            self._scan = _Scan(form.quotes)
        follow = form.separator or form.head
        ends = [core] if core else [t.strip() or t for t in (follow, *self._ends) if t]
        return self._scan.find(text, [end for end in ends if end] or ["\n"])

    def _value(self, text: str) -> Any:
        form = self._form
        if form.strings != "raw":
            try:
                return read_value(text, form.quotes)
            except NotationError:
                return text
        begin, end = form.wrap
        if begin and text.startswith(begin) and text.endswith(end):
            return text[len(begin) : len(text) - len(end)]
        if self._is_text:
            return text
        types = types_of((self._schema or {}).get("properties", {}).get(self._key), self._schema or {})
        if types == {"string"}:
            return text
        try:
            value = read_value(text, form.quotes)
        except NotationError:
            return text
        if isinstance(value, str):
            # Quotes are part of a raw string.
            return text
        if types and not types.intersection(_TYPES[type(value)]):
            return text if "string" in types else _near(value, types)
        return value

    def _close(self) -> tuple[str, int, bool]:
        return ("}" if self._n else "{}"), 0, True


def _near(value: Any, types: set[str]) -> Any:
    """A number that its schema wants as an integer."""
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return int(value)
    return value


def _spaces(text: str) -> int:
    size = len(text) - len(text.lstrip())
    return -1 if size == len(text) else size


class _ObjectReader(ArgumentReader):
    """Reads arguments that are one JSON object: they are given on as they come."""

    def __init__(self, form: Arguments) -> None:
        super().__init__(form, (), None)
        self._depth, self._in_string, self._escaped = 0, False, False

    def read(self, text: str, final: bool) -> tuple[str, int, bool]:
        begun = text if self._depth else text.lstrip()
        if not self._depth and begun and not begun.startswith("{"):
            raise Bad
        lead = len(text) - len(begun)
        for position, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return text[lead : position + 1], position + 1, True
        return text[lead:], len(text), False


class _ValueReader(ArgumentReader):
    """Reads arguments that are one object in another notation: they are given on when they are whole."""

    def __init__(self, form: Arguments) -> None:
        super().__init__(form, (), None)
        self._whole = _Scan(form.quotes)

    def read(self, text: str, final: bool) -> tuple[str, int, bool]:
        if text.strip() and not text.lstrip().startswith("{"):
            raise Bad
        # The object is the first value; a sign that no text has would end it.
        lead = len(text) - len(text.lstrip())
        self._whole.find(text, ["\0"])
        end = self._end(text)
        if end < 0:
            return "", 0, False
        try:
            value = read_value(text[lead:end], self._form.quotes)
        except NotationError:
            raise Bad from None
        return json.dumps(value, ensure_ascii=False), end, True

    def _end(self, text: str) -> int:
        from edgellm.chat.notation import object_at

        if self._whole.depth > 0:
            return -1
        lead = len(text) - len(text.lstrip())
        found = object_at(text, lead, self._form.quotes) if text[lead:] else None
        return -1 if found is None else found[1]


def object_reader(form: Arguments) -> ArgumentReader:
    """A reader of arguments that are one value."""
    return _ObjectReader(form) if form.values == "json" else _ValueReader(form)


def resolve(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """The schema that a reference within `root` leads to; an open one if it leads nowhere."""
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if not isinstance(reference, str):
        return schema if isinstance(schema, Mapping) else {}
    target: Any = root if reference.startswith("#") and depth < 8 else None
    for part in filter(None, reference[1:].split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, Mapping) else None
    return resolve(target, root, depth + 1) if isinstance(target, Mapping) else {}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a schema admits; none if it does not say."""
    if not isinstance(schema, Mapping) or depth > 8:
        return set()
    if "$ref" in schema:
        return types_of(resolve(schema, root), root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return set(kind)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return {"string" if isinstance(v, str) else _TYPES[type(v)][0] for v in values}
    found: set[str] = set()
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        some = types_of(choice, root, depth + 1)
        if not some:
            return set()
        found |= some
    return found
