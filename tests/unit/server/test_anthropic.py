"""The Anthropic Messages API, through its official client and, where that hides the bytes, without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.support.http_server import Running, until_idle

HELLO = {"role": "user", "content": "hello"}
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 0, "messages": [HELLO]}
# Newer clients do not know temperature, but send what is in extra_body.
ASKED: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 6,
    "messages": [HELLO],
    "extra_body": {"temperature": 0},
}


@pytest.fixture
def official(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    assert [block.type for block in message.content] == ["text"]
    block = message.content[0]
    assert block.type == "text"
    return block.text


def test_a_message_and_its_usage(official: anthropic.Anthropic, client: httpx.Client) -> None:
    message = official.messages.create(**ASKED)
    assert (message.role, message.type, message.model) == ("assistant", "message", "tiny")
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.usage.output_tokens == 6
    again = official.messages.create(**ASKED)
    assert text_of(again) == text_of(message)
    counted = official.messages.count_tokens(model="tiny", messages=[{"role": "user", "content": "hello"}])
    assert again.usage.cache_read_input_tokens == counted.input_tokens - 1
    assert again.usage.input_tokens == 1
    # The same prompt as that of the other APIs.
    fields = {"messages": [HELLO], "max_tokens": 6, "temperature": 0}
    other = client.post("/v1/chat/completions", json=fields).json()
    assert other["choices"][0]["message"]["content"] == text_of(message)
    assert other["usage"]["prompt_tokens"] == counted.input_tokens


def test_a_stream_builds_the_same_message(official: anthropic.Anthropic) -> None:
    whole = official.messages.create(**ASKED)
    with official.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(final) == text_of(whole)
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 6
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == (
        whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    )


def test_the_events_of_a_stream_in_their_order(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/messages", json={**BODY, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = list(response.iter_lines())
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [one["type"] for one in data] == events
    kept = [name for name in events if name not in ("ping", "content_block_delta")]
    assert kept == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert data[0]["message"]["stop_reason"] is None


def test_system_blocks_and_turns_become_one_prompt(official: anthropic.Anthropic) -> None:
    turns: list[anthropic.types.MessageParam] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    blocks = official.messages.count_tokens(
        model="tiny", messages=turns, system=[{"type": "text", "text": "be brief"}]
    )
    plain = official.messages.count_tokens(
        model="tiny",
        system="be brief",
        messages=[{"role": "user", "content": "a\nb"}, *turns[1:]],
    )
    without = official.messages.count_tokens(model="tiny", messages=turns)
    assert blocks.input_tokens == plain.input_tokens > without.input_tokens


def test_calls_of_tools_and_their_results_are_turns(client: httpx.Client) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "two"}]}
    turns = [
        HELLO,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
    ]
    counted = client.post("/v1/messages/count_tokens", json={"model": "tiny", "messages": turns}).json()
    same = [
        HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "two"},
        {"role": "user", "content": "go on"},
    ]
    chat = client.post("/v1/chat/completions", json={"messages": same, "max_tokens": 1}).json()
    assert counted == {"input_tokens": chat["usage"]["prompt_tokens"]}


def test_an_answer_that_was_begun_goes_on(official: anthropic.Anthropic) -> None:
    whole = text_of(official.messages.create(**ASKED))
    turns = [HELLO, {"role": "assistant", "content": whole[:1]}]
    rest = text_of(official.messages.create(**{**ASKED, "messages": turns, "max_tokens": 3}))
    assert rest
    counted = official.messages.count_tokens(model="tiny", messages=[{"role": "user", "content": "hello"}])
    begun = official.messages.count_tokens(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}, {"role": "assistant", "content": whole[:1]}],
    )
    # Only the text itself is added: no end of a turn, no beginning of another.
    assert begun.input_tokens == counted.input_tokens + 1


def test_a_stop_sequence_is_named(official: anthropic.Anthropic) -> None:
    text = text_of(official.messages.create(**ASKED))
    stopped = official.messages.create(**ASKED, stop_sequences=["never", text[2:4]])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", text[2:4])
    assert text_of(stopped) == text[: text.index(text[2:4])]


def test_a_full_context_is_named(official: anthropic.Anthropic) -> None:
    message = official.messages.create(**{**ASKED, "max_tokens": 4000})
    assert message.stop_reason in ("model_context_window_exceeded", "end_turn")


def test_errors_are_the_client_s_own(official: anthropic.Anthropic) -> None:
    long: list[anthropic.types.MessageParam] = [{"role": "user", "content": "word " * 300}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: .* context holds 192"):
        official.messages.create(**{**ASKED, "messages": long})
    with (
        pytest.raises(anthropic.BadRequestError, match="prompt is too long"),
        official.messages.stream(**{**ASKED, "messages": long}),
    ):
        pass
    with pytest.raises(anthropic.NotFoundError, match="no model 'other'"):
        official.messages.create(**{**ASKED, "model": "other"})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "emperor", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{}]}]}]}, "None"),
        ({"messages": [HELLO, {"role": "assistant", "content": [{"type": "tool_use"}]}]}, "tool_use"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_what_cannot_be_used_is_named(client: httpx.Client, fields: dict[str, Any], named: str) -> None:
    response = client.post("/v1/messages", json={**BODY, **fields})
    assert response.status_code == 400
    error = response.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert named in error["error"]["message"]


def test_the_path_without_v1_and_unknown_fields(client: httpx.Client) -> None:
    response = client.post("/messages", json={**BODY, "metadata": {"user_id": "me"}})
    assert response.status_code == 200
    assert response.headers["x-edgellm-ignored"] == "metadata"


def test_a_client_that_goes_away_frees_its_place(server: Running) -> None:
    endless = {**BODY, "max_tokens": 10_000, "stream": True}
    with server.client() as leaving, leaving.stream("POST", "/v1/messages", json=endless) as response:
        next(line for line in response.iter_lines() if "content_block_delta" in line)
    assert until_idle(server) < 20
