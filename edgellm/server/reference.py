"""The page at `/docs`: what this server answers, from its OpenAPI document, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from edgellm.server.page import HEADERS

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def reference(request: Request) -> HTMLResponse:
    """The endpoints by API, each with what it takes."""
    return HTMLResponse("".join(_page(request.app.openapi())), headers=HEADERS)


def _page(document: dict[str, Any]) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>edgellm: endpoints</title>'
    yield '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/page/docs.css">'
    yield '<h1>edgellm: endpoints</h1><p><a href="/openapi.json">openapi.json</a> is the same for programs.'
    shown = ""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            (tag,) = operation["tags"]
            if tag != shown:
                yield f"<h2>{escape(tag)}</h2>"
                shown = tag
            yield f"<details><summary><code>{method.upper()} {escape(path)}</code> "
            yield f"{escape(operation.get('description', ''))}</summary>"
            yield from _fields(operation, document)
            yield "</details>"


def _fields(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """A table of the members of a request's body; a sentence where it has none."""
    body = operation.get("requestBody")
    if body is None:
        yield "<p>It takes no body."
        return
    schema = body["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = schema.get("required", ())
    yield "<table><tr><th>field<th>type<th>"
    for name, field in schema["properties"].items():
        yield f"<tr><td><code>{escape(name)}</code><td><code>{escape(_type(field))}</code>"
        yield f"<td>{'required' if name in required else ''}"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, as Python writes types."""
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema or "const" in schema:
        return " | ".join(map(json.dumps, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"list[{_type(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))
