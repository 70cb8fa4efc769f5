"""Structured output, tools and thoughts in the APIs of Ollama, Anthropic and OpenAI's responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import ollama
import openai
import pytest

from edgellm.engine.load_options import LoadOptions
from tests.support.http_server import Running, running
from tests.support.tiny_model import TEMPLATE, write_tiny_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "size": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["kind", "size"],
    "additionalProperties": False,
}
TOOL = {"name": "look", "description": "Look.", "parameters": SCHEMA}
HELLO: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    window = {"llama.context_length": 1024}
    # One whose calls are plain JSON, and one whose prompts end inside the model's thoughts.
    plain = write_tiny_model(folder / "plain.gguf", template="<start_of_turn>" + TEMPLATE, **window)
    thinking = TEMPLATE.replace("assistant: ", "assistant: <think>")
    thoughtful = write_tiny_model(folder / "thoughtful.gguf", template=thinking, **window)
    options = LoadOptions(threads=1)
    with running([("plain", plain), ("thoughtful", thoughtful)], options) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    opened = ollama.Client(server.url, timeout=60)
    yield opened
    opened.close()  # type: ignore[no-untyped-call]


def check(value: object) -> None:
    jsonschema.validate(value, SCHEMA)


def test_ollama_formats(server: Running, client: Any) -> None:
    for seed in range(5):
        options = {"temperature": 1, "seed": seed, "num_predict": 300}
        check(json.loads(client.chat("plain", HELLO, format=SCHEMA, options=options).message.content or ""))
        check(json.loads(client.generate("plain", "hi", format=SCHEMA, options=options).response or ""))
    parts = client.chat("plain", HELLO, format=SCHEMA, options={"seed": 1}, stream=True)
    check(json.loads("".join(part.message.content or "" for part in parts)))
    with server.client() as plain:
        assert "format" in plain.post("/api/chat", json={"model": "plain", "format": "yaml"}).json()["error"]


def test_ollama_calls(server: Running, client: Any) -> None:
    with server.client() as plain:
        (brace,) = plain.post("/tokenize", json={"content": "{", "model": "plain"}).json()["tokens"]
    # An answer that begins with a brace can only be a call.
    options: Any = {"logit_bias": {str(brace): 100}, "num_predict": 300, "seed": 1}
    tools: Any = [{"type": "function", "function": TOOL}]
    whole = client.chat("plain", HELLO, tools=tools, options=options)
    assert whole.message.tool_calls
    assert not whole.message.content
    parts = list(client.chat("plain", HELLO, tools=tools, options=options, stream=True))
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert calls == whole.message.tool_calls
    for call in calls:
        assert call.function.name == "look"
        # The client sends a schema without its bounds.
        assert call.function.arguments["kind"] in ("a", "b")
        assert isinstance(call.function.arguments["size"], int)


def test_ollama_thoughts(server: Running, client: Any) -> None:
    options = {"temperature": 0, "num_predict": 5}
    whole = client.chat("thoughtful", HELLO, options=options)
    assert whole.message.thinking
    assert not whole.message.content
    parts = list(client.chat("thoughtful", HELLO, options=options, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == whole.message.thinking


def test_anthropic_calls(server: Running) -> None:
    asked: Any = {
        "model": "plain",
        "max_tokens": 300,
        "messages": HELLO,
        "tools": [{"name": "look", "description": "Look.", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    }
    client: Any
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for message in (whole, streamed):
            (call,) = message.content
            assert call.type == "tool_use"
            assert call.name == "look"
            check(call.input)
            assert message.stop_reason == "tool_use"
        with pytest.raises(anthropic.BadRequestError, match="no tool has that name"):
            client.messages.create(**{**asked, "tool_choice": {"type": "tool", "name": "other"}})
        with pytest.raises(anthropic.BadRequestError, match="no tools"):
            client.messages.create(**{**asked, "tools": []})
        with pytest.raises(anthropic.BadRequestError, match="no tools"):
            client.messages.create(**{**asked, "tools": [{"type": "web_search_20250305", "name": "w"}]})


def test_anthropic_thoughts(server: Running) -> None:
    asked: Any = {"model": "thoughtful", "max_tokens": 5, "messages": HELLO, "extra_body": {"temperature": 0}}
    client: Any
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as client:
        (whole,) = client.messages.create(**asked).content
        with client.messages.stream(**asked) as stream:
            (streamed,) = stream.get_final_message().content
    assert whole.type == streamed.type == "thinking"
    assert whole.thinking == streamed.thinking != ""


def test_responses_formats_and_calls(server: Running) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    tools: Any = [{"type": "function", "strict": True, **TOOL}]
    client: Any
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        check(json.loads(client.responses.create(model="plain", input="hi", text=form).output_text))
        asked: Any = {"model": "plain", "input": "hi", "tools": tools, "tool_choice": "required"}
        parallel = {"parallel_tool_calls": False}
        (call,) = client.responses.create(**asked, **parallel).output
        assert call.type == "function_call"
        assert (call.name, call.status) == ("look", "completed")
        check(json.loads(call.arguments))
        events = list(client.responses.create(**asked, **parallel, stream=True))
        added = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
        last = events[-1]
        assert last.type == "response.completed"
        assert last.response.output[0].type == "function_call"
        assert last.response.output[0].arguments == added
        check(json.loads(added))
        with pytest.raises(openai.BadRequestError, match="no tools"):
            client.responses.create(model="plain", input="hi", tool_choice="required")


def test_responses_thoughts(server: Running) -> None:
    asked: Any = {"model": "thoughtful", "input": "hi", "max_output_tokens": 5, "temperature": 0}
    client: Any
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        whole = client.responses.create(**asked)
        events = list(client.responses.create(**asked, stream=True))
    (item,) = whole.output
    for usage in (whole.usage, events[-1].response.usage):
        assert 0 < usage.output_tokens_details.reasoning_tokens <= usage.output_tokens == 5
    assert item.type == "reasoning"
    assert item.content
    added = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert added == item.content[0].text
