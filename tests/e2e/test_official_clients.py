"""The official clients of OpenAI, Anthropic and Ollama with a real model, used as an application would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import anthropic
import numpy as np
import ollama
import openai
import pytest
from pydantic import BaseModel, Field

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import ServerSettings
from tests.support.http_server import Running, running, until_idle

KEY = "a key"
MODEL = "smollm2"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France? One word."}]
LONG: Any = [{"role": "user", "content": "word " * 1000}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
# Newer versions of this client have no argument for the temperature.
CALM: dict[str, Any] = {"extra_body": {"temperature": 0}, "max_tokens": 24}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
FUNCTION: dict[str, Any] = {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]


class City(BaseModel):
    """Shape of the answers."""

    name: str = Field(max_length=20)
    size: Literal["small", "large"]
    people: int = Field(ge=0, le=99)


@pytest.fixture(scope="module")
def server(smollm2: Path) -> Iterator[Running]:
    options = LoadOptions(context=512, parallel=2, max_waiting=1, cache_contexts=3)
    with running([(MODEL, smollm2)], options, ServerSettings(port=0, api_keys=(KEY,))) as started:
        yield started


@pytest.fixture
def of_openai(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def of_anthropic(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def of_ollama(server: Running) -> Iterator[Any]:
    client = ollama.Client(server.url, timeout=120, headers={"Authorization": f"Bearer {KEY}"})
    yield client
    client.close()  # type: ignore[no-untyped-call]


def check_call(name: str, arguments: Any) -> None:
    assert name == "get_weather"
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("C", "F")


def test_one_answer_in_all_dialects(
    of_openai: openai.OpenAI, of_anthropic: anthropic.Anthropic, of_ollama: Any
) -> None:
    chat = of_openai.chat.completions.create(model=MODEL, messages=QUESTION, **GREEDY)
    text = chat.choices[0].message.content
    assert text
    assert "Paris" in text
    chunks = of_openai.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    response = of_openai.responses.create(
        model=MODEL, input=QUESTION[0]["content"], temperature=0, max_output_tokens=24
    )
    assert response.output_text == text
    with of_openai.responses.stream(
        model=MODEL, input=QUESTION[0]["content"], temperature=0, max_output_tokens=24
    ) as stream:
        assert "".join(e.delta for e in stream if e.type == "response.output_text.delta") == text
    message = of_anthropic.messages.create(model=MODEL, messages=QUESTION, **CALM)
    assert [block.text for block in message.content if block.type == "text"] == [text]
    with of_anthropic.messages.stream(model=MODEL, messages=QUESTION, **CALM) as events:
        assert "".join(events.text_stream) == text
    counted = of_anthropic.messages.count_tokens(model=MODEL, messages=QUESTION)
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    options = {"temperature": 0, "num_predict": 24}
    assert of_ollama.chat(MODEL, QUESTION, options=options, think=False).message.content == text
    parts = list(of_ollama.chat(MODEL, QUESTION, options=options, stream=True))
    assert "".join(part.message.content for part in parts) == text
    assert (parts[-1].done_reason, parts[-1].eval_count) == (
        "stop",
        chat.usage and chat.usage.completion_tokens,
    )


def test_structured_answers_become_objects(of_openai: openai.OpenAI, of_ollama: Any) -> None:
    asked: Any = [{"role": "user", "content": "Describe Paris as JSON."}]
    for seed in range(2):
        parsed = of_openai.chat.completions.parse(
            model=MODEL, messages=asked, response_format=City, temperature=1, seed=seed
        )
        assert isinstance(parsed.choices[0].message.parsed, City)
    response = of_openai.responses.parse(model=MODEL, input="Describe Paris.", text_format=City)
    assert isinstance(response.output_parsed, City)
    with of_openai.chat.completions.stream(model=MODEL, messages=asked, response_format=City) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)
    answer = of_ollama.chat(MODEL, asked, format=City.model_json_schema(), options={"seed": 1})
    City.model_validate_json(answer.message.content)


def test_a_call_of_openai_s_goes_round(of_openai: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo, in C?"}]
    given: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "temperature": 0}
    called = of_openai.chat.completions.create(messages=asked, tool_choice="required", **given)
    assert called.choices[0].finish_reason == "tool_calls"
    message = called.choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    check_call(call.function.name, json.loads(call.function.arguments))
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 4}'}
    answer = of_openai.chat.completions.create(
        messages=[*asked, message.to_dict(), result], max_tokens=24, tool_choice="none", **given
    )
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls
    with of_openai.chat.completions.stream(messages=asked, tool_choice="required", **given) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed
    assert streamed[0].function.arguments == call.function.arguments


def test_a_call_of_a_response_goes_round(of_openai: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **FUNCTION}
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo, in C?"}]
    given: dict[str, Any] = {"model": MODEL, "tools": [tool], "temperature": 0}
    called = of_openai.responses.create(input=asked, tool_choice="required", **given)
    calls = [item for item in called.output if item.type == "function_call"]
    check_call(calls[0].name, json.loads(calls[0].arguments))
    result: Any = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "4 degrees"}
    answer = of_openai.responses.create(
        input=[*asked, *[item.to_dict() for item in called.output], result],
        tool_choice="none",
        max_output_tokens=24,
        **given,
    )
    assert answer.output_text


def test_a_call_of_anthropic_s_goes_round(of_anthropic: anthropic.Anthropic) -> None:
    tool: Any = {"name": "get_weather", "description": "The weather", "input_schema": PARAMETERS}
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo, in C?"}]
    given: dict[str, Any] = {"model": MODEL, "tools": [tool], **CALM, "max_tokens": 60}
    called = of_anthropic.messages.create(messages=asked, tool_choice={"type": "any"}, **given)
    assert called.stop_reason == "tool_use"
    uses = [block for block in called.content if block.type == "tool_use"]
    check_call(uses[0].name, uses[0].input)
    results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": "4 degrees"} for use in uses]
    turns: Any = [
        *asked,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": results},
    ]
    answer = of_anthropic.messages.create(messages=turns, tool_choice={"type": "none"}, **given)
    assert answer.stop_reason in ("end_turn", "max_tokens")
    with of_anthropic.messages.stream(messages=asked, tool_choice={"type": "any"}, **given) as stream:
        assert stream.get_final_message().content[0].to_dict()["input"] == uses[0].input


def test_ollama_s_calls_and_results(of_ollama: Any) -> None:
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo, in C?"}]
    answer = of_ollama.chat(MODEL, asked, tools=TOOLS, options={"temperature": 0, "num_predict": 60})
    for call in answer.message.tool_calls or ():
        check_call(call.function.name, call.function.arguments)
    assert answer.message.tool_calls or answer.message.content
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "C"}}}
    turns: Any = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_name": "get_weather", "content": "4 degrees"})
    answer = of_ollama.chat(MODEL, turns, options={"temperature": 0, "num_predict": 24})
    assert answer.message.content


def test_embeddings_are_the_same_everywhere(of_openai: openai.OpenAI, of_ollama: Any) -> None:
    texts = ["a cat", "a kitten", "the stock exchange"]
    found = np.array([one.embedding for one in of_openai.embeddings.create(model=MODEL, input=texts).data])
    np.testing.assert_allclose(of_ollama.embed(MODEL, texts).embeddings, found, atol=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2]


def test_what_ollama_s_client_asks_about_models(of_ollama: Any) -> None:
    assert [model.model for model in of_ollama.list().models] == [MODEL]
    assert of_ollama.show(MODEL).details.quantization_level == "Q4_1"
    (running_now,) = of_ollama.ps().models
    assert running_now.context_length == 512
    assert of_ollama.generate(MODEL, "2 + 2 =", raw=True, options={"num_predict": 4}).response


def test_errors_are_each_client_s_own(
    server: Running, of_openai: openai.OpenAI, of_anthropic: anthropic.Anthropic, of_ollama: Any
) -> None:
    with pytest.raises(openai.AuthenticationError):
        of_openai.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        of_openai.chat.completions.create(model="other", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as overflow:
        of_openai.chat.completions.create(model=MODEL, messages=LONG)
    assert overflow.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.AuthenticationError):
        of_anthropic.with_options(api_key="wrong").messages.create(model=MODEL, messages=QUESTION, **CALM)
    with pytest.raises(anthropic.NotFoundError):
        of_anthropic.messages.create(model="other", messages=QUESTION, **CALM)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        of_anthropic.messages.create(model=MODEL, messages=LONG, **CALM)
    with pytest.raises(ollama.ResponseError) as refused:
        of_ollama.chat("other", QUESTION)
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as refused:
        of_ollama.chat(MODEL, LONG)
    assert refused.value.status_code == 400
    stranger = ollama.Client(server.url)
    with pytest.raises(ollama.ResponseError) as refused:
        stranger.list()
    assert refused.value.status_code == 401
    stranger.close()  # type: ignore[no-untyped-call]


def test_a_full_queue_is_retried_until_there_is_a_place(
    server: Running,
    of_openai: openai.OpenAI,
    of_anthropic: anthropic.Anthropic,
    of_ollama: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = server.service.models.loaded[0].model
    begun, go_on = threading.Event(), threading.Event()

    def held(*arrays: Any, step: Any = model.backend.step) -> Any:
        begun.set()
        go_on.wait()
        return step(*arrays)

    monkeypatch.setattr(model.backend, "step", held)
    streamed: dict[str, Any] = {"messages": QUESTION, "stream": True}
    with ExitStack() as stack:
        stack.callback(go_on.set)
        client = stack.enter_context(server.client(authorization=f"Bearer {KEY}"))
        # One is being answered, which takes as long as we like; then one waits, and no more may.
        stack.enter_context(client.stream("POST", "/v1/chat/completions", json=streamed))
        assert begun.wait(60)
        stack.enter_context(client.stream("POST", "/v1/chat/completions", json=streamed))
        assert model.scheduler.n_waiting == 1
        with pytest.raises(openai.InternalServerError) as full:
            of_openai.chat.completions.create(model=MODEL, messages=QUESTION, **GREEDY)
        assert (full.value.status_code, full.value.code) == (503, "queue_full")
        assert int(full.value.response.headers["retry-after"]) > 0
        with pytest.raises(anthropic.InternalServerError) as overloaded:
            of_anthropic.messages.create(model=MODEL, messages=QUESTION, **CALM)
        assert overloaded.value.status_code == 503
        with pytest.raises(ollama.ResponseError) as refused:
            of_ollama.chat(MODEL, QUESTION)
        assert refused.value.status_code == 503
    patient = of_openai.with_options(max_retries=20)
    assert patient.chat.completions.create(model=MODEL, messages=QUESTION, **GREEDY).choices
    until_idle(server)
