"""Hypothesis strategies for JSON that a schema describes, and for JSON that it does not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

# Lone surrogates too: JSON can name them, and UTF-8 has none.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
INTEGERS = st.one_of(
    st.integers(-3, 300), st.sampled_from([2**31, 2**32, 2**63 - 1, 2**64, -(2**63), 10**30]), st.integers()
)
NUMBERS = st.one_of(st.floats(-2, 2), st.floats(allow_nan=False, allow_infinity=False), INTEGERS)
ANY: Strategy = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def values_of(schema: dict[str, Any], document: dict[str, Any]) -> Strategy:
    """JSON values that are mostly valid against a schema of an OpenAPI document."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        return values_of(document["components"]["schemas"][name], document)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of([values_of(one, document) for one in schema[word]])
    match schema.get("type"):
        case "string":
            return TEXTS
        case "integer":
            return INTEGERS
        case "number":
            return NUMBERS
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(values_of(schema.get("items", {}), document), max_size=3)
        case "object":
            return _objects(schema, document)
    return ANY


def _objects(schema: dict[str, Any], document: dict[str, Any]) -> Strategy:
    members = {name: values_of(one, document) for name, one in schema.get("properties", {}).items()}
    required = {name: members[name] for name in schema.get("required", ())}
    optional = {name: members[name] for name in members if name not in required}
    known = st.fixed_dictionaries(required, optional=optional)
    if schema.get("additionalProperties") is False:
        return known
    more = schema.get("additionalProperties")
    inner = values_of(more, document) if isinstance(more, dict) else ANY
    others = st.dictionaries(TEXTS, inner, max_size=2)
    return st.builds(lambda extra, own: {**extra, **own}, others, known)
