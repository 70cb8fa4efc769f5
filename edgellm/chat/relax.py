"""Schemas that grammars can express: what a schema asks beyond that is left out, and each place is named.

Arguments of tools are constrained as far as a grammar can: unknown formats, keywords about other values,
references that lead nowhere and bounds that contradict each other are left out, one by one, so that no tool
makes a request fail. Forms that other generators write (OpenAPI's nullable, draft 4's exclusive bounds, type
names of other languages) are translated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgellm.chat.references import resolve
from edgellm.chat.schema import MAX_REPEATS, MAX_SCHEMA_DEPTH, check_pattern
from edgellm.errors import UsageError

MAX_VALUES = 32 * 1024
MAX_SHOWN_DEPTH = 56
# Larger ones make automata of so many states, and no grammar tells them from noise.
MAX_MULTIPLE = 1000
# Bounds of larger magnitude are those of machine types, not of arguments.
MAX_BOUND = 1e15
MAX_ENUM_NAMES = 256

# Keywords by which compiling a grammar may take more than time in proportion to its length.
COSTLY = ("multipleOf", "pattern", "patternProperties", "allOf")

# Assertions about what is around a place, and repetitions of what a group matched.
_UNREADABLE = re.compile(r"\(\?<?[=!]|(?<!\\)(?:\\\\)*\\[bBAZzGK1-9c]|\\k<")
_TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}
_OTHER_TYPES = {
    "str": "string", "text": "string", "int": "integer", "long": "integer", "float": "number",
    "double": "number", "decimal": "number", "bool": "boolean", "dict": "object", "map": "object",
    "record": "object", "list": "array", "tuple": "array", "set": "array", "none": "null", "nil": "null",
}  # fmt: skip
_FORMATS = {"date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
_SAME_FORMATS = {
    "uuid1": "uuid",
    "uuid3": "uuid",
    "uuid4": "uuid",
    "uuid5": "uuid",
    "guid": "uuid",
    "url": "uri",
}
# Widths of numbers, which limit no value that a model writes.
_WIDTHS = {"int32", "int64", "uint32", "uint64", "int", "float", "double", "decimal", "number"}
# Keywords that no grammar enforces.
_BEYOND = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "uniqueItems",
    "contains", "minContains", "maxContains", "unevaluatedProperties", "unevaluatedItems", "propertyNames",
    "$recursiveRef", "$dynamicRef",
)  # fmt: skip
# Remarks, and names of schemas, which references have been followed by.
_DROPPED = (
    "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment",
    "title", "description", "examples", "example", "default", "deprecated", "readOnly", "writeOnly",
    "x-guidance", "contentEncoding", "contentMediaType", "contentSchema", "discriminator", "xml",
    "externalDocs",
)  # fmt: skip
_COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
_KINDS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "integer": lambda value: (
        not isinstance(value, bool) and isinstance(value, int | float) and value == value // 1
    ),
    "number": lambda value: not isinstance(value, bool) and isinstance(value, int | float),
}


@dataclass(slots=True)
class Relaxed:
    """A schema that admits all that the given one does; `notes`: the places where it admits more."""

    schema: Any
    notes: list[str] = field(default_factory=list)


def relax(schema: object, *, exact: bool = False) -> Relaxed:
    """The schema without what grammars cannot express; never raises.

    exact: exactly one alternative of a oneOf has to fit; otherwise at least one has to.
    """
    relaxer = _Relaxer()
    if not isinstance(schema, Mapping):
        return Relaxed({"type": "object"}, [] if schema is None else ["schema"])
    resolved = resolve(schema, MAX_SCHEMA_DEPTH, relaxer.notes)
    made = relaxer.schema(resolved, "", 0)
    if not exact and isinstance(made, dict):
        made["x-guidance"] = {"coerce_one_of": True}
    return Relaxed(made, relaxer.notes)


def relax_arguments(schema: object) -> Relaxed:
    """The schema of a tool's arguments, which are an object, without what grammars cannot express."""
    relaxed = relax(schema)
    made = relaxed.schema if isinstance(relaxed.schema, dict) else {}
    given = made.get("type", "object")
    if "object" not in (given if isinstance(given, list) else [given]):
        return Relaxed({"type": "object"}, [*relaxed.notes, "type"])
    return Relaxed({**made, "type": "object"}, relaxed.notes)


def pruned(schema: Any, depth: int = MAX_SHOWN_DEPTH) -> Any:
    """A copy for templates, which take no deeper nesting: what is deeper becomes empty."""
    if isinstance(schema, Mapping):
        return {str(key): pruned(value, depth - 1) for key, value in schema.items()} if depth else {}
    if isinstance(schema, list):
        return [pruned(value, depth - 1) for value in schema] if depth else []
    return schema


class _Relaxer:
    def __init__(self) -> None:
        self._n_values = 0
        self.notes: list[str] = []

    def schema(self, given: Any, path: str, depth: int) -> Any:
        """A schema without what cannot be expressed."""
        self._n_values += 1
        if isinstance(given, bool):
            return given
        if not isinstance(given, Mapping) or depth > MAX_SCHEMA_DEPTH or self._n_values > MAX_VALUES:
            if given is not None:
                self._note(path, "")
            return True
        made = {key: value for key, value in given.items() if key not in _DROPPED and value is not None}
        self._leave_out(made, path)
        self._types(made, path)
        self._values(made, path)
        self._numbers(made, path)
        self._counts(made, path)
        self._strings(made, path)
        self._object(made, path, depth)
        self._array(made, path, depth)
        self._combined(made, path, depth)
        return self._nullable(made)

    def _note(self, path: str, keyword: str) -> None:
        self.notes.append(".".join(part for part in (path, keyword) if part))

    def _leave_out(self, made: dict[str, Any], path: str) -> None:
        names = made.get("propertyNames")
        if isinstance(names, Mapping) and self._named(made, names):
            del made["propertyNames"]
        harmless = made.get("unevaluatedProperties") in (True, False) and not _combines(made)
        for keyword in _BEYOND:
            if keyword not in made:
                continue
            value = made.pop(keyword)
            trivial = value in (False, {}) and keyword in ("uniqueItems", "dependentRequired", "dependencies")
            if not trivial and not (harmless and keyword == "unevaluatedProperties"):
                self._note(path, keyword)

    @staticmethod
    def _named(made: dict[str, Any], names: Mapping[str, Any]) -> bool:
        """Write out propertyNames as properties or patternProperties where that says the same."""
        if set(names) <= {"type", "$ref"} and names.get("type") == "string":
            return True
        rest = made.get("additionalProperties", True)
        if made.get("properties") or made.get("patternProperties"):
            return False
        listed = names.get("enum", [names["const"]] if "const" in names else None)
        if isinstance(listed, list) and listed and len(listed) <= MAX_ENUM_NAMES:
            made["properties"] = {name: rest for name in listed if isinstance(name, str)}
        elif isinstance(names.get("pattern"), str):
            made["patternProperties"] = {names["pattern"]: rest}
        else:
            return False
        made["additionalProperties"] = False
        return True

    def _types(self, made: dict[str, Any], path: str) -> None:
        if "type" not in made:
            return
        given = made.pop("type")
        known = [_type(one) for one in (given if isinstance(given, list) else [given])]
        if None in known or not known:
            self._note(path, "type")
        else:
            made["type"] = known if isinstance(given, list) else known[0]

    def _values(self, made: dict[str, Any], path: str) -> None:
        if "enum" in made and (not isinstance(made["enum"], list) or not made["enum"]):
            del made["enum"]
            self._note(path, "enum")
        values = made["enum"] if "enum" in made else [made["const"]] if "const" in made else None
        if values is None or "type" not in made:
            return
        types = made["type"] if isinstance(made["type"], list) else [made["type"]]
        if not any(_KINDS[kind](value) for kind in types for value in values):
            del made["type"]
            self._note(path, "type")

    def _numbers(self, made: dict[str, Any], path: str) -> None:
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and bound in made:  # draft 4
                made[exclusive] = made.pop(bound)
        for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
            if keyword not in made:
                continue
            value = made[keyword]
            if not _is_number(value):
                self._drop(made, path, keyword)
            elif abs(value) > MAX_BOUND:
                del made[keyword]  # no limit to what a model writes
        low = max([made[key] for key in ("minimum", "exclusiveMinimum") if key in made], default=-math.inf)
        high = min([made[key] for key in ("maximum", "exclusiveMaximum") if key in made], default=math.inf)
        if low > high:
            self._drop(made, path, "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        if "multipleOf" in made and not _is_divisor(made["multipleOf"]):
            self._drop(made, path, "multipleOf")

    def _counts(self, made: dict[str, Any], path: str) -> None:
        for pair in _COUNTS:
            for keyword in pair:
                value = made.get(keyword)
                if value is None:
                    continue
                if not _is_number(value) or value < 0 or value != value // 1 or value > MAX_REPEATS:
                    self._drop(made, path, keyword)
                else:
                    made[keyword] = int(value)
            if made.get(pair[0], 0) > made.get(pair[1], math.inf):
                self._drop(made, path, *pair)

    def _strings(self, made: dict[str, Any], path: str) -> None:
        pattern = made.get("pattern")
        if pattern is not None and not self._readable(pattern):
            self._drop(made, path, "pattern")
        name = made.get("format")
        if name is None:
            return
        name = _SAME_FORMATS.get(name, name) if isinstance(name, str) else name
        if name in _FORMATS if isinstance(name, str) else False:
            made["format"] = name
        else:
            del made["format"]
            if name not in _WIDTHS:
                self._note(path, "format")

    def _readable(self, pattern: object) -> bool:
        if not isinstance(pattern, str):
            return False
        try:
            check_pattern(pattern, "pattern")
        except UsageError:
            return False
        return not _UNREADABLE.search(pattern)

    def _object(self, made: dict[str, Any], path: str, depth: int) -> None:
        required = made.get("required")
        if required is not None:
            if not isinstance(required, list):
                if not isinstance(required, bool):  # draft 3
                    self._note(path, "required")
                del made["required"]
            else:
                made["required"] = list(dict.fromkeys(name for name in required if isinstance(name, str)))
        self._by_name(made, "properties", path, depth)
        patterns = made.get("patternProperties")
        if isinstance(patterns, Mapping):
            readable = {key: value for key, value in patterns.items() if self._readable(key)}
            if len(readable) < len(patterns):
                self._note(path, "patternProperties")
                if made.get("additionalProperties") is False:
                    del made["additionalProperties"]
            made["patternProperties"] = readable
        self._by_name(made, "patternProperties", path, depth)
        for keyword in ("$defs", "definitions"):
            self._by_name(made, keyword, path, depth)
        self._one(made, "additionalProperties", path, depth)

    def _array(self, made: dict[str, Any], path: str, depth: int) -> None:
        if isinstance(made.get("items"), list):  # tuples before draft 2020
            made["prefixItems"] = made.pop("items")
            if "additionalItems" in made:
                made["items"] = made["additionalItems"]
        made.pop("additionalItems", None)
        self._one(made, "items", path, depth)
        self._several(made, "prefixItems", path, depth)

    def _combined(self, made: dict[str, Any], path: str, depth: int) -> None:
        for keyword in ("anyOf", "oneOf", "allOf"):
            self._several(made, keyword, path, depth)

    def _nullable(self, made: dict[str, Any]) -> Any:
        """OpenAPI's way to say that a value may be null."""
        if made.pop("nullable", None) is not True:
            return made
        return {"anyOf": [made, {"type": "null"}]}

    def _one(self, made: dict[str, Any], keyword: str, path: str, depth: int) -> None:
        if keyword in made:
            made[keyword] = self.schema(made[keyword], f"{path}.{keyword}".lstrip("."), depth + 1)

    def _several(self, made: dict[str, Any], keyword: str, path: str, depth: int) -> None:
        if keyword not in made:
            return
        if not isinstance(made[keyword], list) or not made[keyword]:
            self._drop(made, path, keyword)
            return
        where = f"{path}.{keyword}".lstrip(".")
        made[keyword] = [self.schema(one, f"{where}.{n}", depth + 1) for n, one in enumerate(made[keyword])]

    def _by_name(self, made: dict[str, Any], keyword: str, path: str, depth: int) -> None:
        if keyword not in made:
            return
        if not isinstance(made[keyword], Mapping):
            self._drop(made, path, keyword)
            return
        where = f"{path}.{keyword}".lstrip(".")
        made[keyword] = {
            str(name): self.schema(one, f"{where}.{name}", depth + 1) for name, one in made[keyword].items()
        }

    def _drop(self, made: dict[str, Any], path: str, *keywords: str) -> None:
        for keyword in keywords:
            if keyword in made:
                del made[keyword]
                self._note(path, keyword)


def _type(given: object) -> str | None:
    name = given.lower() if isinstance(given, str) else ""
    return name if name in _TYPES else _OTHER_TYPES.get(name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_divisor(value: object) -> bool:
    """True for numbers whose multiples a small automaton tells: up to a thousand, in steps of 0.0001."""
    if not isinstance(value, int | float) or not _is_number(value) or not 0 < value <= MAX_MULTIPLE:
        return False
    return value % 1 == 0 or len(f"{value:.15g}".rpartition(".")[2]) <= 4


def _combines(made: Mapping[str, Any]) -> bool:
    return any(key in made for key in ("allOf", "anyOf", "oneOf", "$ref", "if"))
