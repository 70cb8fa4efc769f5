"""A real model at temperature 1: every answer in a format and every call of a tool is valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from edgellm.engine.load_options import LoadOptions
from tests.support.http_server import running

PER_SCHEMA = 10
N_CALLS = 50
WORKERS = 10


def text(limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit}


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


SCHEMAS: dict[str, dict[str, Any]] = {
    "person": record(name=text(20), age={"type": "integer", "minimum": 0, "maximum": 120}),
    "enum": record(color={"enum": ["red", "green", "blue"]}, sure={"type": "boolean"}),
    "nested": record(
        user=record(address=record(city=text(16), zip={"type": "string", "pattern": "^[0-9]{5}$"}))
    ),
    "array": record(tags={"type": "array", "items": text(8), "minItems": 1, "maxItems": 4}),
    "objects": {
        "type": "array",
        "items": record(x={"type": "integer", "minimum": -9, "maximum": 9}, on={"type": "boolean"}),
        "minItems": 2,
        "maxItems": 3,
    },
    "bounds": record(
        share={"type": "number", "exclusiveMinimum": 0, "maximum": 1, "multipleOf": 0.01},
        count={"type": "integer", "minimum": 10, "exclusiveMaximum": 20},
    ),
    "pattern": record(
        code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        day={"type": "string", "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]$"},
    ),
    "choice": {"anyOf": [record(error=text(24)), record(value={"type": "integer", "maximum": 999})]},
    "optional": {
        "type": "object",
        "properties": {"a": text(8), "b": {"type": ["integer", "null"], "minimum": 0, "maximum": 99}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "reference": {
        **record(root={"$ref": "#/$defs/node"}),
        "$defs": {
            "node": record(
                label={"const": "n"},
                children={"type": "array", "items": record(leaf={"type": "boolean"}), "maxItems": 2},
            )
        },
    },
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": record(**properties) if properties else {"type": "object", "properties": {}},
        },
    }
    for name, description, properties in (
        ("get_weather", "The weather of a city", {"city": text(20), "unit": {"enum": ["C", "F"]}}),
        (
            "set_timer",
            "Start a timer",
            {"minutes": {"type": "integer", "minimum": 1, "maximum": 180}, "label": text(16)},
        ),
        ("lights_off", "Switch all lights off", {}),
    )
]
QUESTIONS = ("What is the weather in Oslo?", "Wake me in ten minutes.", "Good night!", "Tell me a joke.")


@pytest.fixture(scope="module")
def client(smollm2: Path) -> Iterator[httpx.Client]:
    options = LoadOptions(context=512, parallel=WORKERS, cache_contexts=WORKERS)
    with running([("smollm2", smollm2)], options) as server, server.client() as opened:
        opened.timeout = httpx.Timeout(300)
        yield opened


def ask(client: httpx.Client, question: str, seed: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    body = {"messages": messages, "temperature": 1.0, "seed": seed, "max_tokens": 160, **fields}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


@pytest.mark.timeout(900)
def test_a_hundred_answers_fit_their_ten_schemas(client: httpx.Client) -> None:
    jobs = [(name, seed) for seed in range(PER_SCHEMA) for name in SCHEMAS]

    def valid(job: tuple[str, int]) -> bool:
        name, seed = job
        wanted = {"type": "json_schema", "json_schema": {"name": name, "schema": SCHEMAS[name]}}
        choice = ask(client, f"Make up a {name} as JSON.", seed, response_format=wanted)
        try:
            jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS[name])
        except (ValueError, jsonschema.ValidationError):
            return False
        return bool(choice["finish_reason"] == "stop")

    with ThreadPoolExecutor(WORKERS) as pool:
        invalid = [job for job, good in zip(jobs, pool.map(valid, jobs), strict=True) if not good]
    assert len(jobs) == 100
    assert invalid == []


@pytest.mark.timeout(900)
def test_fifty_required_calls_are_valid(client: httpx.Client) -> None:
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}

    def valid(seed: int) -> bool:
        question = QUESTIONS[seed % len(QUESTIONS)]
        choice = ask(
            client, question, seed, tools=TOOLS, tool_choice="required", parallel_tool_calls=seed % 2 == 0
        )
        calls = choice["message"]["tool_calls"]
        try:
            for call in calls:
                arguments = json.loads(call["function"]["arguments"])
                jsonschema.validate(arguments, parameters[call["function"]["name"]])
        except (ValueError, KeyError, jsonschema.ValidationError):
            return False
        return bool(calls) and choice["finish_reason"] == "tool_calls"

    with ThreadPoolExecutor(WORKERS) as pool:
        invalid = [seed for seed, good in enumerate(pool.map(valid, range(N_CALLS))) if not good]
    assert invalid == []
