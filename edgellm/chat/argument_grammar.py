"""Lark rules of a call's arguments, valid against their schema, in the notation of a template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgellm.chat.notation import plain_form
from edgellm.chat.reading import resolve, types_of
from edgellm.chat.schema import grammar_schema
from edgellm.chat.syntax import OWN_KEY, Arguments, Notation

MAX_DEPTH = 8
_NUMBER_KEYS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
# Regular expressions of schemas that the grammar engine does not take.
_STRANGE = re.compile(r"\(\?[^:]|\\[1-9bBkGAZz]")


class ArgumentGrammar:
    """Writes the rules of one tool's arguments; `rules` are its lines.

    `literal` writes a text in Lark. `ends` are texts that may follow the arguments.
    """

    def __init__(
        self,
        prefix: str,
        form: Arguments,
        ends: Sequence[str],
        literal: Callable[[str], str],
        root: Mapping[str, Any] | None = None,
    ) -> None:
        self.rules: list[str] = []
        self._prefix = prefix
        self._form = form
        self._ends = ends
        self._literal = literal
        self._root: Mapping[str, Any] = root or {}
        self._n = 0
        self._any: str | None = None

    def write(self, schema: Mapping[str, Any]) -> str:
        """The name of the rule of arguments that fit `schema`."""
        form = self._form
        if form.kind == "object" and form.values == "json":
            return self._json(schema)
        self._root = grammar_schema(schema)
        if form.kind == "object":
            return self._rule(self._nested(self._root, 0))
        return self._members(self._root, form.open, form.separator, form.close, self._pair, self._free_pair)

    # Rules.

    def _rule(self, body: str) -> str:
        name = f"{self._prefix}_{self._n}"
        self._n += 1
        self.rules.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        name = f"{self._prefix.upper()}_{self._n}"
        self._n += 1
        self.rules.append(f"{name}: {body}")
        return name

    def _json(self, schema: Mapping[str, Any]) -> str:
        shared = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}
        text = json.dumps(grammar_schema({**shared, **schema}), ensure_ascii=False)
        return self._rule(f"%json {text}")

    def _members(
        self,
        schema: Mapping[str, Any],
        begin: str,
        separator: str,
        end: str,
        pair: Callable[[str, Any], str],
        free: Callable[[Any], str],
    ) -> str:
        """Rules of an object's members in the order of its schema, those not required at will."""
        literal = self._literal
        properties = list((schema.get("properties") or {}).items())
        if not self._form.ordered:
            properties.sort()
        if not properties:
            others = schema.get("additionalProperties", True)
            keyed = free == self._free_pair and OWN_KEY in self._form.tail  # ends of unknown keys
            if others is False or keyed:
                return self._rule(_joined(literal(begin), literal(end)))
            member = self._rule(free(others))
            more = f"({_joined(literal(separator), member)})*"
            return self._rule(_joined(literal(begin), f"({member} {more})?", literal(end)))
        required = set(schema.get("required") or ())
        first = later = self._rule(literal(end) or '""')
        for key, value in reversed(properties):
            member = self._rule(pair(key, value))
            begun = f"{member} {later}"
            going = _joined(literal(separator), member, later)
            if key not in required:
                begun, going = f"{begun} | {first}", f"{going} | {later}"
            first, later = self._rule(begun), self._rule(going)
        return self._rule(_joined(literal(begin), first))

    # Members of arguments that are written one by one.

    def _pair(self, key: str, schema: Any) -> str:
        return _joined(self._literal(self._form.head + key), self._valued(schema, key))

    def _free_pair(self, schema: Any) -> str:
        key = self._terminal(r"/[a-zA-Z0-9_.-]{1,64}/")
        return _joined(self._literal(self._form.head), key, self._valued(schema, ""))

    def _valued(self, schema: Any, key: str) -> str:
        """A value between its middle and its tail."""
        form, literal = self._form, self._literal
        schema = resolve(schema, self._root)
        texts: list[str] = []
        others: list[str] = []
        for choice in _choices(schema, self._root):
            for kind in _kinds(choice, self._root):
                if kind == "string" and form.strings == "raw":
                    texts.append(self._raw(choice, form.tail_of(key, text=True)))
                elif kind == "string":
                    others.append(self._text(choice, form.strings))
                elif kind == "array" and form.lists is not None:
                    others.append(self._list({**choice, "type": kind}, form.lists))
                else:
                    others.append(self._nested({**choice, "type": kind}, 1))
        options = []
        options += [_joined(literal(form.text_middle), text) for text in texts]
        if others:
            tail = literal(form.tail_of(key, text=False))
            options.append(_joined(literal(form.middle), f"({' | '.join(others)})", tail))
        return f"({' | '.join(options)})"

    def _raw(self, schema: Mapping[str, Any], tail: str) -> str:
        """A string without quotes and the text that ends it."""
        values = _values(schema)
        if values is not None:
            listed = " | ".join(self._literal(v) or '""' for v in values if isinstance(v, str)) or '""'
            return _joined(f"({listed})", self._literal(tail))
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        times = "*" if not low and high == "" else f"{{{low},{high}}}"
        pattern = schema.get("pattern")
        inner = rf"(.|\n){times}"
        if isinstance(pattern, str) and not _STRANGE.search(pattern):
            before = "" if pattern.startswith("^") else r"(.|\n)*"
            after = "" if pattern.endswith("$") else r"(.|\n)*"
            found = re.sub(r"(?<!\\)/", r"\\/", pattern.removeprefix("^").removesuffix("$"))
            inner = f"{before}({found}){after}".replace("\n", r"\n")
        if "<[" in self._literal(tail):  # a control token is no text
            return _joined(self._terminal(f"/{inner}/") + "?", self._literal(tail))
        if tail.strip():
            end = tail.rstrip()
            name = f"{self._prefix}_{self._n}"
            self._n += 1
            self.rules.append(f"{name}[lazy]: /{inner}{_regex(end)}/")
            return _joined(name, self._literal(tail[len(end) :]))
        follow = {text.strip()[:1] for text in (self._form.separator, *self._ends)}
        sign = "[^" + "".join(_regex(c) for c in sorted({*follow, "\n"}) if c) + "]"
        return _joined(self._terminal(f"/{sign}+/") + "?", self._literal(tail))

    # Values.

    def _nested(self, schema: Any, depth: int) -> str:
        """A value in the notation of lists and objects."""
        form = self._form
        if form.values == "json" and form.strings in ("json", "raw"):
            return self._constant_or_json(schema)
        if depth > MAX_DEPTH:
            return self._anything()
        schema = resolve(schema, self._root)
        options = []
        for choice in _choices(schema, self._root):
            for kind in _kinds(choice, self._root):
                options.append(self._of_kind(kind, choice, depth))
        return options[0] if len(options) == 1 else f"({' | '.join(dict.fromkeys(options))})"

    def _list(self, schema: Mapping[str, Any], notation: Notation) -> str:
        """A list in a notation of its own."""
        self._n += 1
        inner = ArgumentGrammar(
            f"{self._prefix}_l{self._n}", plain_form(notation), self._ends, self._literal, self._root
        )
        body = inner._nested(schema, 1)
        self.rules += inner.rules
        return body

    def _constant_or_json(self, schema: Any) -> str:
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        true, false, null = self._form.words
        if kind == "boolean" and true != "true":
            return f"({self._literal(true)} | {self._literal(false)})"
        if kind == "null" and null != "null":
            return self._literal(null)
        return self._json(schema)

    def _of_kind(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        form, literal = self._form, self._literal
        own = form.values == "own"
        values = _values(schema)
        if kind == "string":
            return self._text(schema, form.values)
        if kind in ("integer", "number"):
            bounds = {key: schema[key] for key in _NUMBER_KEYS if key in schema}
            if values is not None:
                return self._json({"enum": [v for v in values if not isinstance(v, str)]})
            return self._json({"type": kind, **bounds})
        if kind == "boolean":
            return f"({literal(form.words[0])} | {literal(form.words[1])})"
        if kind == "null":
            return literal(form.words[2])
        if form.values == "json":
            return self._json({**schema, "type": kind})
        separator = "," if own else ", "
        if kind == "array":
            item = self._rule(self._nested(schema.get("items", {}), depth + 1))
            return self._rule(f'"[" ({item} ({literal(separator)} {item})*)? "]"')

        def pair(key: str, value: Any) -> str:
            return _joined(literal(f"{key}:" if own else f"{key!r}: "), self._nested(value, depth + 1))

        def free(value: Any) -> str:
            key = self._terminal("/[a-zA-Z0-9_.-]{1,64}/")
            named = f'{key} ":"' if own else f'"\'" {key} "\': "'
            return _joined(named, self._nested({} if value is True else value, depth + 1))

        return self._members(schema, "{", separator, "}", pair, free)

    def _text(self, schema: Mapping[str, Any], notation: Notation) -> str:
        """A string with its quotes."""
        if notation == "json":
            return self._json(schema)
        values = _values(schema)
        if values is None:
            return self._string(notation)
        begin, end = self._form.quotes
        texts = [v for v in values if isinstance(v, str)]
        written = [begin + v + end if notation == "own" else repr(v) for v in texts]
        return f"({' | '.join(map(self._literal, written))})"

    def _string(self, notation: Notation) -> str:
        form = self._form
        if notation == "own":
            begin, end = form.quotes
            if "<[" in self._literal(end):  # a control token is no text
                inner = self._terminal(r"/(.|\n)+/") + "?"
                return self._rule(_joined(self._literal(begin), inner, self._literal(end)))
            name = f"{self._prefix}_{self._n}"
            self._n += 1
            self.rules.append(rf"{name}[lazy]: /(.|\n)*{_regex(end)}/")
            return self._rule(_joined(self._literal(begin), name))
        if notation == "python":
            escape = r"\\([^xuU]|x[0-9a-f]{2}|u[0-9a-f]{4})"
            return self._terminal(rf"""/'([^'\\]|{escape})*'|"([^"\\]|{escape})*"/""")
        return self._json({"type": "string"})

    def _anything(self) -> str:
        if self._any is None:
            name = self._any = f"{self._prefix}_any"
            form, literal = self._form, self._literal
            separator = literal("," if form.values == "own" else ", ")
            words = " | ".join(map(literal, form.words))
            number = self._json({"type": "number"})
            listed = f'"[" ({name} ({separator} {name})*)? "]"'
            self.rules.append(f"{name}: {self._string(form.values)} | {number} | {words} | {listed}")
        return self._any


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part) or '""'


def _regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n").replace("\n", r"\n")


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema lists."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _choices(schema: Any, root: Mapping[str, Any], depth: int = 0) -> list[Mapping[str, Any]]:
    """The schemas of which a value fits one."""
    schema = resolve(schema, root)
    if not isinstance(schema, Mapping):
        return [{}]
    for part in schema.get("allOf") or ():
        schema = {**resolve(part, root), **{k: v for k, v in schema.items() if k != "allOf"}}
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list) and schema[key] and depth < MAX_DEPTH:
            rest = {k: v for k, v in schema.items() if k != key}
            return [
                choice
                for part in schema[key]
                for choice in _choices({**rest, **resolve(part, root)}, root, depth + 1)
            ]
    return [schema]


def _kinds(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[str]:
    """The types that a schema admits, all if it does not say."""
    types = types_of(schema, root)
    if "number" in types:
        types.discard("integer")
    if not types:
        if "properties" in schema:
            return ["object"]
        return [kind for kind in _TYPES if kind != "integer"]
    return [kind for kind in _TYPES if kind in types]
