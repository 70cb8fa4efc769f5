"""JSON schemas from callers: checked against limits, and brought to the form that grammars are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgellm.errors import UsageError

MAX_SCHEMA_CHARS = 128 * 1024
MAX_SCHEMA_VALUES = 8192
MAX_SCHEMA_DEPTH = 64
MAX_REPEATS = 100_000
MAX_PATTERN_DEPTH = 50

# Writing JSON in one way only keeps answers short, and small models from running on in white space.
_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}

# RFC 3339, without years before 1 and days that are in no calendar.
_DATE = (
    r"(?:(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|"
    r"(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|"
    r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DATES = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}T{_TIME}$"}

# Keywords whose value is a schema, a list of schemas, or schemas by name.
_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_MANY = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# Remarks for readers, and options of the grammar's engine.
_UNUSED = ("x-guidance", "description", "title", "examples", "default", "$comment", "deprecated")
_COMBINING = ("anyOf", "oneOf", "allOf", "$ref", "if", "patternProperties", "unevaluatedProperties")


def read_schema(given: object, what: str = "schema") -> dict[str, Any]:
    """A schema as a dict of its own; `given` is an object or its JSON text.

    Raises UsageError, with `what` as the name of the field, if it is no JSON object or exceeds the limits.
    """
    if isinstance(given, str):
        _check_size(given, what)
        try:
            given = json.loads(given)
        except ValueError as error:
            raise UsageError(f"{what} is not valid JSON: {error}.") from None
        except RecursionError:
            raise _too_deep(what) from None
    if given is True:
        given = {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{what} must be a JSON schema (an object), not {str(given)[:80]!r}.")
    _check_values(given, what)
    try:
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} is not made of JSON values: {error}.") from None
    _check_size(text, what)
    copy: dict[str, Any] = json.loads(text)
    return copy


def grammar_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema that a grammar is made from: everything that it admits, `schema` admits.

    An object whose properties are listed, and that says nothing of others, has no others: a model would
    invent some without end. Raises UsageError for patterns beyond the limits.
    """
    _check_patterns(schema)
    result = _closed(schema) if _simple(schema) else dict(schema)
    asked = schema.get("x-guidance")
    coerce = isinstance(asked, Mapping) and asked.get("coerce_one_of") is True
    return {**_dated(result), "x-guidance": {**_LAYOUT, **({"coerce_one_of": True} if coerce else {})}}


def _dated(schema: Any) -> Any:
    """The schema with formats of dates written out, so that only dates that exist fit."""
    if isinstance(schema, list):
        return [_dated(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value if key in ("enum", "const") else _dated(value) for key, value in schema.items()}
    expression = _DATES.get(str(schema.get("format")))
    if expression is None:
        return made
    del made["format"]
    if "pattern" not in made:
        return {**made, "pattern": expression}
    both = [{"pattern": made.pop("pattern")}, {"pattern": expression}]
    return {**made, "allOf": [*made.get("allOf", []), *both]}


def check_pattern(pattern: str, what: str, *, strings: bool = False) -> None:
    """Raise UsageError if a regular expression, or a grammar (strings: with "..." in it), is a bomb.

    Counted are the depth of groups and how much a pattern grows when each {m,n} is written out.
    """
    totals, last, position = [0], 0, 0  # parts in each open group; in the latest part
    while position < len(pattern):
        char = pattern[position]
        count = _count(pattern, position) if char == "{" else None
        if count is not None:
            repeats, end = count
            totals[-1] += last * max(0, repeats - 1)
            last *= max(1, repeats)
            position = end - 1
        elif char == "(":
            totals.append(0)
            last = 0
            if len(totals) > MAX_PATTERN_DEPTH + 1:
                raise UsageError(f"{what} nests groups more than {MAX_PATTERN_DEPTH} levels deep.")
        else:
            last = 1
            if char == ")" and len(totals) > 1:
                last = max(1, totals.pop())
            elif char == "\\":
                position += 1
            elif char == "[" or (strings and char == '"'):
                position = _end_of(pattern, position, "]" if char == "[" else '"')
            totals[-1] += last
        if totals[-1] > MAX_REPEATS:
            raise UsageError(f"{what} repeats its parts more than {MAX_REPEATS} times altogether; use less.")
        position += 1


def _end_of(pattern: str, start: int, end: str) -> int:
    position = start + 1
    if end == "]" and pattern[position : position + 1] == "]":
        position += 1  # a class may begin with its own end
    while position < len(pattern) and pattern[position] != end:
        position += 2 if pattern[position] == "\\" else 1
    return position


def _count(pattern: str, start: int) -> tuple[int, int] | None:
    """(repeats, position after) of a {m}, {m,} or {m,n} at `start`."""
    end = pattern.find("}", start, start + 32)
    low, _, high = pattern[start + 1 : end].partition(",")
    if end < 0 or not (low + high).strip().isdecimal():
        return None
    numbers = [int(text) for text in (low, high) if text.strip().isdecimal()]
    return max(numbers), end + 1


def _check_size(text: str, what: str) -> None:
    if len(text) > MAX_SCHEMA_CHARS:
        raise UsageError(f"{what} is {len(text)} characters long; at most {MAX_SCHEMA_CHARS} are accepted.")


def _check_values(schema: object, what: str) -> None:
    """Walk without recursion, so that nothing nested too deep can do harm."""
    stack: list[tuple[object, int]] = [(schema, 1)]
    n_values = 0
    while stack:
        value, depth = stack.pop()
        n_values += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise _too_deep(what)
        if n_values > MAX_SCHEMA_VALUES:
            raise UsageError(f"{what} holds more than {MAX_SCHEMA_VALUES} values; use a smaller schema.")
        if isinstance(value, Mapping):
            stack.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list | tuple):
            stack.extend((item, depth + 1) for item in value)


def _too_deep(what: str) -> UsageError:
    return UsageError(f"{what} nests more than {MAX_SCHEMA_DEPTH} levels deep.")


def _check_patterns(schema: Mapping[str, Any], repeats: int = 1) -> None:
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        check_pattern(pattern, "pattern")
    for name in schema.get("patternProperties") or ():
        check_pattern(str(name), "patternProperties")
    counts = [schema.get(key) for key in ("minItems", "maxItems")]
    repeats *= max([1, *(n for n in counts if isinstance(n, int))])
    if repeats > MAX_REPEATS:
        raise UsageError(
            f"minItems and maxItems ask for arrays of more than {MAX_REPEATS} values altogether; use less."
        )
    for _, part in _parts(schema):
        _check_patterns(part, repeats)


def _parts(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The schemas directly inside a schema, with the keyword that each belongs to."""
    found: list[tuple[str, Any]] = [(key, schema.get(key)) for key in _ONE]
    for key in _MANY:
        found += [(key, part) for part in _list(schema.get(key))]
    for key in _NAMED:
        named = schema.get(key)
        found += [(key, part) for part in named.values()] if isinstance(named, Mapping) else []
    return [(key, part) for key, part in found if isinstance(part, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _simple(schema: Mapping[str, Any]) -> bool:
    """True if no object of the schema is described in two places at once."""
    if any(key in schema for key in ("allOf", "if", "unevaluatedProperties", "dependentSchemas")):
        return False
    if any(key in schema for key in _COMBINING) and any(key in schema for key in ("properties", "required")):
        return False
    return all(_simple(part) for _, part in _parts(schema))


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in schema.items() if key not in _UNUSED}
    for key in _ONE:
        if isinstance(schema.get(key), Mapping):
            result[key] = _closed(schema[key])
    for key in _MANY:
        if isinstance(schema.get(key), list):
            result[key] = [_closed(part) if isinstance(part, Mapping) else part for part in schema[key]]
    for key in _NAMED:
        if isinstance(schema.get(key), Mapping):
            result[key] = {
                name: _closed(part) if isinstance(part, Mapping) else part
                for name, part in schema[key].items()
            }
    listed = schema.get("properties")
    if (
        isinstance(listed, Mapping)
        and "additionalProperties" not in schema
        and "minProperties" not in schema
        and all(name in listed for name in _list(schema.get("required")))
    ):
        result["additionalProperties"] = False
    return result
