"""Structured output and tools of the OpenAI API, on a model whose words mean nothing."""

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
from tests.support.tiny_model import TEMPLATE, write_tiny_model

HOT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "max_tokens": 400,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 99},
        "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "inner": {
            "type": "object",
            "properties": {"flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
            "required": ["flags"],
        },
    },
    "required": ["kind", "size", "code", "inner"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "look", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "wait"}},
]
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
# Its prompts end inside the model's thoughts.
THINKING = TEMPLATE.replace("assistant: ", "assistant: <think>")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("models")
    window = {"llama.context_length": 2048}
    plain = write_tiny_model(folder / "plain.gguf", **window)
    thinking = write_tiny_model(folder / "thinking.gguf", template=THINKING, **window)
    options = LoadOptions(threads=1, parallel=8, cache_contexts=4)
    with running([("plain", plain), ("thinking", thinking)], options) as server, server.client() as opened:
        yield opened


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json={"model": "plain", **HOT, **fields})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def streamed(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The one choice of a stream, put together."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    reason = None
    body = {"model": "plain", **HOT, **fields, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            (choice,) = json.loads(line[6:])["choices"]
            reason = choice["finish_reason"] or reason
            for name in ("content", "reasoning_content"):
                message[name] += choice["delta"].get(name, "")
            for call in choice["delta"].get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(message["tool_calls"])
                    assert call["type"] == "function"
                    message["tool_calls"].append(call["function"])
                else:
                    message["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
    return {"message": message, "finish_reason": reason}


def check_calls(calls: list[dict[str, Any]]) -> None:
    assert calls
    for call in calls:
        arguments = json.loads(call["arguments"])
        if call["name"] == "look":
            jsonschema.validate(arguments, SCHEMA)
        else:
            assert (call["name"], arguments) == ("wait", {})


def test_answers_in_a_format_are_valid_many_at_once(client: httpx.Client) -> None:
    def ask(seed: int) -> dict[str, Any]:
        return chat(client, response_format=FORMAT, seed=seed)

    with ThreadPoolExecutor(8) as pool:
        choices = list(pool.map(ask, range(16)))
    for choice in choices:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    assert choices[3]["message"] == ask(3)["message"]


def test_calls_that_are_required_are_valid_whole_and_streamed(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
    with ThreadPoolExecutor(8) as pool:
        choices = list(pool.map(lambda seed: chat(client, **fields, seed=seed), range(8)))
    for seed, choice in enumerate(choices):
        calls = [call["function"] for call in choice["message"]["tool_calls"]]
        assert choice["message"]["content"] is None
        if choice["finish_reason"] == "length":
            calls = calls[:-1] or [{"name": "wait", "arguments": "{}"}]
        else:
            assert choice["finish_reason"] == "tool_calls"
        check_calls(calls)
        if seed < 2:
            found = streamed(client, **fields, seed=seed)
            assert found["finish_reason"] == choice["finish_reason"]
            assert found["message"]["tool_calls"] == [c["function"] for c in choice["message"]["tool_calls"]]


def test_one_named_tool_is_called_once(client: httpx.Client) -> None:
    choice = chat(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "look"}}, seed=1)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "look"
    check_calls([call["function"]])
    single = chat(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=2)
    assert len(single["message"]["tool_calls"]) == 1
    assert single["finish_reason"] == "tool_calls"


def test_without_a_call_an_answer_with_tools_is_words(client: httpx.Client) -> None:
    for tool_choice in ("auto", "none"):
        choice = chat(client, tools=TOOLS, tool_choice=tool_choice, seed=1, max_tokens=20)
        assert choice["message"]["content"]
        assert "tool_calls" not in choice["message"]


def test_results_of_calls_go_into_the_next_prompt(client: httpx.Client) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "wait", "arguments": "{}"}}
    messages = [
        *HOT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    assert chat(client, messages=messages, tools=TOOLS, max_tokens=4)["finish_reason"] in ("length", "stop")


def test_thoughts_are_kept_apart_from_words(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"model": "thinking", "max_tokens": 12, "seed": 1, "ignore_eos": True}
    message = chat(client, **fields)["message"]
    assert message["content"] == ""
    thoughts = streamed(client, **fields)["message"]["reasoning_content"]
    assert thoughts.strip("\n") == message["reasoning_content"]
    assert message["reasoning_content"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "not"),
        ({"grammar": 'start: "a"', "tools": TOOLS}, "grammar and tools"),
        ({"tool_choice": "required"}, "no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "no tool has"),
        ({"tools": [{"type": "function"}]}, "name"),
        (
            {"tools": [{"function": {"name": "f" * 129}}]},
            "tools[0]",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"pattern": "(" * 60_000 + ")" * 60_000}},
                }
            },
            "levels deep",
        ),
    ],
    ids=range(8),
)
def test_what_cannot_be_done_is_a_400(client: httpx.Client, fields: dict[str, Any], message: str) -> None:
    response = client.post("/v1/chat/completions", json={"model": "plain", **HOT, **fields})
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]


def test_schemas_reach_the_files_of_nobody(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.write_text('{"const": "secret"}')
    schema = {"$ref": path.as_uri()}
    fields = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    response = client.post("/v1/chat/completions", json={"model": "plain", **HOT, **fields})
    assert response.status_code == 400
    assert 'secret"' not in response.text
