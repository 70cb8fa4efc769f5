"""The OpenAI APIs through their official client: chats, completions, embeddings, responses, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types.responses import Response

from tests.support.http_server import Running, until_idle

GREEDY: dict[str, Any] = {"temperature": 0, "extra_body": {"ignore_eos": True}}
LONG = "word " * 300


@pytest.fixture
def official(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def respond(official: openai.OpenAI, given: Any = "hello", **fields: Any) -> Response:
    response = official.responses.create(
        model="tiny", input=given, **{"max_output_tokens": 6, **GREEDY, **fields}
    )
    assert isinstance(response, Response)
    return response


def test_a_chat_whole_and_streamed(official: openai.OpenAI) -> None:
    whole = official.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=6, **GREEDY
    )
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    chunks = list(
        official.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 6


def test_completions_embeddings_and_models(official: openai.OpenAI) -> None:
    completion = official.completions.create(model="tiny", prompt="once", max_tokens=3, logprobs=1, **GREEDY)
    assert completion.choices[0].text
    assert completion.choices[0].logprobs is not None
    # The client asks for base64 and gives numbers.
    embedding = official.embeddings.create(model="tiny", input=["a cat"]).data[0].embedding
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)
    assert [model.id for model in official.models.list()] == ["tiny"]
    assert official.models.retrieve("tiny").owned_by == "edgellm"


def test_errors_are_the_client_s_own(official: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        official.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            official.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": LONG}], stream=stream
            )
        assert refused.value.code == "context_length_exceeded"


def test_a_response_and_its_usage(official: openai.OpenAI) -> None:
    response = respond(official, instructions="be brief", metadata={"a": "b"})
    assert (response.object, response.status, response.model) == ("response", "incomplete", "tiny")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert response.usage.output_tokens == 6
    again = respond(official, instructions="be brief")
    assert again.output_text == response.output_text
    assert again.usage is not None
    assert again.usage.input_tokens_details.cached_tokens == again.usage.input_tokens - 1


def test_the_events_of_a_response(official: openai.OpenAI) -> None:
    whole = respond(official)
    stream = official.responses.create(
        model="tiny", input="hello", max_output_tokens=6, stream=True, **GREEDY
    )
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.incomplete"
    assert text == last.response.output_text == whole.output_text
    stopped: dict[str, Any] = {"temperature": 0, "extra_body": {"stop": text[2:4]}}
    with official.responses.stream(model="tiny", input="hello", **stopped) as helper:
        final = helper.get_final_response()
    assert final.status == "completed"
    assert final.output_text == text[: text.index(text[2:4])]


def test_the_items_of_an_input_are_turns(official: openai.OpenAI, client: httpx.Client) -> None:
    items = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "add"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "two"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2"}]},
        {"role": "user", "content": "thanks"},
    ]
    usage = respond(official, items).usage
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "add"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "thanks"},
    ]
    chat = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()
    assert usage is not None
    assert usage.input_tokens == chat["usage"]["prompt_tokens"]


def test_what_a_response_cannot_be_is_named(official: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id") as refused:
        respond(official, previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError, match=r"input\.0"):
        respond(official, [{"type": "item_reference", "id": "x"}])
    with pytest.raises(openai.BadRequestError, match="role"):
        respond(official, [{"content": "x"}])
    with pytest.raises(openai.BadRequestError, match="input_image"):
        respond(official, [{"role": "user", "content": [{"type": "input_image"}]}])
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as overflow:
            official.responses.create(model="tiny", input=LONG, stream=stream)
        assert overflow.value.code == "context_length_exceeded"


def test_a_client_that_goes_away_frees_its_place(server: Running) -> None:
    endless = {"input": "hello", "stream": True, "ignore_eos": True}
    with server.client() as leaving, leaving.stream("POST", "/responses", json=endless) as response:
        next(line for line in response.iter_lines() if "output_text.delta" in line)
    assert until_idle(server) < 20
