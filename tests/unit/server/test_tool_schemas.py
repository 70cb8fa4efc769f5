"""No schema of a tool makes a request fail, and what can be enforced of it is."""
# ruff: noqa: E501

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from edgellm.chat.tools import Tool, ToolChoice, syntax_of
from edgellm.engine.call_grammars import CallGrammars
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from tests.support.http_server import running
from tests.support.tiny_model import TEMPLATE, write_tiny_model

S = {"type": "string"}


def args(field: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": field, "b": {"enum": ["x"]}},
        "required": ["a", "b"],
        **more,
    }


# Schemas, and the fields of which the header says that they are not enforced.
SCHEMAS: dict[str, tuple[Any, list[str]]] = {
    # zod 4
    "z.int": (args({"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}), []),
    "z.record": (args({"type": "object", "propertyNames": S, "additionalProperties": {"type": "number"}}), []),
    "z.record of enum": (
        args({"type": "object", "propertyNames": {"enum": ["p", "q"]}, "additionalProperties": {"type": "null"}}),
        [],
    ),
    "z.email": (args({"type": "string", "format": "email", "pattern": r"^(?!\.)(?!.*\.\.)[a-z]+@[a-z]+$"}), ["a.pattern"]),
    "z.ipv4": (args({"type": "string", "format": "ipv4"}), []),
    "z.cuid2": (args({"type": "string", "format": "cuid2", "pattern": "^[0-9a-z]+$"}), ["a.format"]),
    "z.never": (args({"not": {}}), ["a.not"]),
    "z.lazy": (args({"$ref": "#/$defs/__schema0"}, **{"$defs": {"__schema0": {"anyOf": [{"type": "null"}, S]}}}), []),
    "z.tuple": (args({"type": "array", "prefixItems": [S, {"type": "null"}], "items": False}), []),
    "z.discriminatedUnion": (
        args({"oneOf": [args({"const": 1}), args({"const": 2})], "discriminator": {"propertyName": "a"}}),
        [],
    ),
    "z.intersection": (args({"allOf": [{"type": "object", "properties": {"p": S}}, {"type": "object"}]}), []),
    "$schema": (args(S, **{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x"}), []),
    # pydantic 2
    "Decimal": (args({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}), ["a.anyOf.1.pattern"]),
    "FilePath": (args({"type": "string", "format": "file-path"}), ["a.format"]),
    "set": (args({"type": "array", "items": S, "uniqueItems": True}), ["a.uniqueItems"]),
    "conint": (args({"type": "integer", "exclusiveMinimum": 0, "maximum": 2**63 - 1}), []),
    "Optional": (args({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "A"}), []),
    "timedelta": (args({"type": "string", "format": "duration"}), []),
    "bytes": (args({"type": "string", "format": "binary"}), ["a.format"]),
    "recursive": (args({"$ref": "#/$defs/N"}, **{"$defs": {"N": {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}}}}}), []),
    # OpenAPI and older drafts
    "nullable": (args({"type": "string", "nullable": True, "enum": ["u", None]}), []),
    "nullable int32": (args({"type": "integer", "format": "int32", "nullable": True}), []),
    "components": (args({"$ref": "#/components/schemas/P"}, components={"schemas": {"P": S}}), []),
    "draft 4": (args({"type": "number", "minimum": 0, "exclusiveMinimum": True}), []),
    "draft 3": (args({"type": "any", "required": True}), ["a.type"]),
    "tuple of draft 7": (args({"type": "array", "items": [S], "additionalItems": False}), []),
    "definitions": (args({"$ref": "#/definitions/P"}, definitions={"P": S}), []),
    "wrong table": (args({"$ref": "#/$defs/P"}, definitions={"P": S}), []),
    "anchor": (args({"$ref": "#p"}, **{"$defs": {"P": {"$anchor": "p", **S}}}), []),
    "id": (args({"$ref": "person.json"}, **{"$defs": {"P": {"$id": "person.json", **S}}}), []),
    "escaped pointer": (args({"$ref": "#/$defs/a~1b%25"}, **{"$defs": {"a/b%": S}}), []),
    "elsewhere": (args({"$ref": "https://example.com/s.json#/$defs/X"}), ["a.$ref"]),
    "a file": (args({"$ref": "file:///etc/passwd"}), ["a.$ref"]),
    "nowhere": (args({"$ref": "#/$defs/Nope"}), ["a.$ref"]),
    "$dynamicRef": (args({"$dynamicRef": "#x"}), ["a.$dynamicRef"]),
    # Gemini, other languages
    "upper case": ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}, "b": {"enum": ["x"]}}, "required": ["a", "b"]}, []),
    "float": (args({"type": "float"}), []),
    "list": (args({"type": "list", "items": {"type": "int"}}), []),
    "type of types": (args({"type": ["string", "any"]}), ["a.type"]),
    "type object": (args({"type": {"x": 1}}), ["a.type"]),
    # what cannot be
    "bounds": (args({"type": "integer", "minimum": 9, "maximum": 3}), ["a.minimum", "a.maximum"]),
    "lengths": (args({"type": "string", "minLength": 9, "maxLength": 3}), ["a.minLength", "a.maxLength"]),
    "counts": (args({"type": "array", "minItems": 3, "maxItems": 1}), ["a.minItems", "a.maxItems"]),
    "enum of nothing": (args({"enum": []}), ["a.enum"]),
    "enum of another type": (args({"type": "string", "enum": [1, 2]}), ["a.type"]),
    "false": (args(False), ["a"]),
    "all of two types": (args({"allOf": [S, {"type": "integer"}]}), ["a.allOf"]),
    "required that is not there": (args(S, required=["a", "b", "zz"]), []),
    # malformed
    "pattern": (args({"type": "string", "pattern": "("}), ["a.pattern"]),
    "pattern of another language": (args({"type": "string", "pattern": "/^abc$/i"}), ["a.pattern"]),
    "backreference": (args({"type": "string", "pattern": r"^(.)\1$"}), ["a.pattern"]),
    "lookbehind": (args({"type": "string", "pattern": "(?<=a)b"}), ["a.pattern"]),
    "number as text": (args({"type": "string", "minLength": "2"}), ["a.minLength"]),
    "negative length": (args({"type": "string", "maxLength": -1}), ["a.maxLength"]),
    "properties list": ({"type": "object", "properties": []}, ["properties"]),
    "items null": (args({"type": "array", "items": None}), []),
    "items text": (args({"type": "array", "items": "string"}), ["a.items"]),
    "anyOf object": (args({"anyOf": {"type": "string"}}), ["a.anyOf"]),
    "field is text": (args("string"), ["a"]),
    "root string": ({"type": "string"}, ["type"]),
    "root list": ([], []),
    "root text": ("object", []),
    "no type": ({"properties": {"a": S}}, []),
    # about other values
    "if": (args(S, **{"if": {}, "then": {"required": ["a"]}}), ["if", "then"]),
    "dependentRequired": (args(S, dependentRequired={"a": ["b"]}), ["dependentRequired"]),
    "contains": (args({"type": "array", "contains": S}), ["a.contains"]),
    "unevaluated": (args(S, unevaluatedProperties=False), []),
    "x-guidance": (args(S, **{"x-guidance": {"whitespace_pattern": "("}}), []),
    "multipleOf": (args({"type": "number", "multipleOf": 0.01}), []),
    # that never end compiling
    "a large divisor": (args({"type": "integer", "multipleOf": 99999989}), ["a.multipleOf"]),
    "a small step": (args({"type": "number", "multipleOf": 1e-9}), ["a.multipleOf"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf", **{"llama.context_length": 8192})
    with running([("tiny", path)], LoadOptions(threads=1, context=8192)) as server, server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf")
    with Model.load(path, LoadOptions(), vocab_only=True) as loaded:
        yield loaded


def call(client: httpx.Client, tools: list[Any], **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "tools": tools, **fields}
    return client.post("/v1/chat/completions", json=body)


def tool(name: str, schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_never_fails_a_request(client: httpx.Client, name: str) -> None:
    schema, notes = SCHEMAS[name]
    response = call(client, [tool("good", args(S)), tool("odd", schema)], tool_choice="required")
    assert response.status_code == 200, response.text
    found = [note for note in response.headers.get("x-edgellm-relaxed", "").split(", ") if note]
    if name not in ("root list", "root text"):
        named = [f"odd.properties.{n}" if n[0] == "a" and n[1:2] in ("", ".") else f"odd.{n}" for n in notes]
        assert found == named


def test_the_rest_of_a_schema_is_enforced(client: httpx.Client) -> None:
    schema = args({"type": "string", "format": "path", "maxLength": 5, "not": {"const": "z"}})
    enforced = args({"type": "string", "maxLength": 5})
    for seed in range(4):
        response = call(
            client,
            [tool("odd", schema)],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=300,
            temperature=2.0,
            seed=seed,
        )
        (made,) = response.json()["choices"][0]["message"]["tool_calls"]
        jsonschema.validate(json.loads(made["function"]["arguments"]), enforced)


def test_names_as_long_as_those_of_mcp_servers(client: httpx.Client) -> None:
    for name in ("n" * 128, "mcp__plugin_jenkins-mcp-plugin_jenkins__jenkins_get_build_console", "a.b/c:d"):
        assert call(client, [tool(name, args(S))]).status_code == 200
    for wrong in ("n" * 129, "", "a b", "é", 'a"'):
        response = call(client, [tool("good", None), tool(wrong, args(S))])
        assert response.status_code == 400
        assert "tools[1]" in response.json()["error"]["message"]


@pytest.mark.parametrize("depth", [70, 400])
def test_deep_schemas(client: httpx.Client, depth: int) -> None:
    schema: Any = S
    for _ in range(depth):
        schema = {"type": "object", "properties": {"p": schema}}
    assert call(client, [tool("deep", schema)]).status_code == 200


def grammar_of(model: Model, tools: list[Tool], **options: Any) -> tuple[str, ...]:
    calls = CallGrammars(
        model, GenerateOptions(**options), syntax_of(TEMPLATE), ToolChoice("required"), {}, "none"
    )
    return calls.compiled(tools)[1]


def test_hundreds_of_tools_and_a_megabyte_of_schemas(model: Model) -> None:
    field = {"anyOf": [{"type": "string", "description": "d" * 40}, {"type": "null"}], "default": None}
    schema = {"type": "object", "properties": {f"argument_{n}": field for n in range(30)}}
    tools = [Tool(f"tool_{n}", "", {**schema, "title": str(n)}) for n in range(300)]
    assert sum(len(json.dumps(one.parameters)) for one in tools) > 1_000_000
    grammar_of(model, tools)


def test_a_grammar_that_is_too_large_gives_up_its_largest_schemas(model: Model) -> None:
    large = {
        "type": "object",
        "properties": {f"p{n}": {"enum": [f"{n} {m}" for m in range(90)]} for n in range(300)},
    }
    small = args({"type": "integer"})
    notes = grammar_of(
        model, [Tool("small", "", small), *(Tool(f"large_{n}", "", {**large, "n": n}) for n in range(8))]
    )
    assert all(note.startswith("large_") for note in notes)


def test_an_intersection_of_many_patterns_ends(model: Model) -> None:
    patterns = [{"pattern": f"(a|b){{{n},50}}c"} for n in range(40)]
    notes = grammar_of(model, [Tool("odd", "", args({"allOf": patterns})), Tool("good", "", args(S))])
    assert notes
    assert all(note.startswith("odd.") for note in notes)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "integer", "multipleOf": 99999989}, "multipleOf"),
        (args({"type": "string", "format": "path"}), "properties.a.format"),
        (args({"type": "string", "pattern": "(?=x)"}), "properties.a.pattern"),
        (args({"not": {}}), "properties.a.not"),
        (args({"type": "string", "format": "date", "pattern": "^2023-02-29$"}), ""),
        (args({"type": "string", "format": "date", "pattern": "^2024-04-31$"}), ""),
        (args({"type": "string", "format": "date", "pattern": "^1900-02-29$"}), ""),
        (args({"type": "string", "format": "date-time", "pattern": "^2023-02-29T"}), ""),
    ],
    ids=str,
)
def test_a_format_that_cannot_be_enforced_is_refused_by_its_field(
    client: httpx.Client, schema: Any, named: str
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for _ in range(2):
        response = call(client, [], response_format=form)
        assert response.status_code == 400, response.text
        assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("day", ["2024-02-29", "2000-02-29", "2023-12-31", "0001-01-01", "2400-02-29"])
def test_dates_that_exist_fit(client: httpx.Client, day: str) -> None:
    for form, text in (("date", day), ("date-time", f"{day}T23:59:59Z")):
        schema = {"type": "string", "format": form, "pattern": f"^{text}$"}
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        response = call(client, [], response_format=asked, max_tokens=60)
        assert json.loads(response.json()["choices"][0]["message"]["content"]) == text
