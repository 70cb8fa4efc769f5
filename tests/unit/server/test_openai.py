"""The OpenAI API: shapes, streams, choices, log-probabilities, limits, errors."""

from __future__ import annotations

import base64
import json
import threading
import time
from itertools import accumulate
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.http_server import Running

MESSAGES = [{"role": "user", "content": "hello"}]
GREEDY: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, "ignore_eos": True}


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json={**GREEDY, **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def stream(client: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, which must end with [DONE]."""
    with client.stream("POST", path, json={**fields, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def refusal(client: httpx.Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = client.post("/v1/chat/completions", json={**GREEDY, **fields})
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error


def test_a_chat_is_answered_in_the_shape_clients_expect(client: httpx.Client) -> None:
    answer = chat(client)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    assert answer["timings"]["predicted_n"] == 6


def test_a_stream_holds_the_same_text_and_ends_with_the_usage(client: httpx.Client) -> None:
    whole = chat(client)
    chunks = stream(client, "/v1/chat/completions", **GREEDY, stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


def test_without_being_asked_a_stream_has_no_usage(client: httpx.Client) -> None:
    assert all("usage" not in chunk for chunk in stream(client, "/v1/chat/completions", **GREEDY))


def test_choices_differ_by_seed_and_repeat(client: httpx.Client) -> None:
    fields = {"n": 3, "seed": 5, "temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    first, second = chat(client, **fields), chat(client, **fields)
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in second["choices"]]
    assert first["usage"]["completion_tokens"] == 18


def test_log_probabilities_of_tokens_and_their_alternatives(client: httpx.Client) -> None:
    content = chat(client, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for token in content:
        assert len(token["top_logprobs"]) == 3
        assert token["logprob"] == pytest.approx(token["top_logprobs"][0]["logprob"])
        assert token["logprob"] < 0
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["token"]
    alone = chat(client, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [token["top_logprobs"] for token in alone] == [[]] * 6
    assert [token["logprob"] for token in alone] == [token["logprob"] for token in content]


def test_a_biased_token_is_the_answer(client: httpx.Client) -> None:
    token = client.post("/tokenize", json={"content": "the"}).json()["tokens"][0]
    piece = client.post("/detokenize", json={"tokens": [token]}).json()["content"]
    answer = chat(client, logit_bias={str(token): 1000}, max_tokens=3)
    assert answer["choices"][0]["message"]["content"] == piece * 3


def test_a_stop_text_ends_the_answer(client: httpx.Client) -> None:
    text = chat(client)["choices"][0]["message"]["content"]
    stop = text[2:4]
    choice = chat(client, stop=[stop])["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_a_repeated_prompt_is_found_in_the_cache(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "a prompt of some length, asked for twice"}]
    chat(client, messages=messages)
    usage = chat(client, messages=messages)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_completions_continue_texts_and_tokens(client: httpx.Client) -> None:
    ids = client.post("/tokenize", json={"content": "once upon", "add_special": True}).json()["tokens"]
    fields = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    texts = client.post("/v1/completions", json={"prompt": ["once upon", "a time"], **fields}).json()
    tokens = client.post(
        "/v1/completions", json={"prompt": ids, **fields, "echo": True, "logprobs": 2}
    ).json()
    assert [choice["index"] for choice in texts["choices"]] == [0, 1]
    assert tokens["choices"][0]["text"].endswith(texts["choices"][0]["text"])
    assert tokens["choices"][0]["text"].startswith("once upon")
    logprobs = tokens["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert [len(top) for top in logprobs["top_logprobs"][1:]] == [2] * (len(ids) - 1 + 4)
    chunks = stream(client, "/v1/completions", prompt="once upon", **fields)
    assert "".join(c["choices"][0]["text"] for c in chunks) == texts["choices"][0]["text"]


def test_text_offsets_count_from_the_beginning_of_the_text(client: httpx.Client) -> None:
    fields = {"prompt": "once upon", "max_tokens": 4, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    alone = client.post("/v1/completions", json=fields).json()["choices"][0]
    echoed = client.post("/v1/completions", json={**fields, "echo": True}).json()["choices"][0]
    begins = [0, *accumulate(map(len, alone["logprobs"]["tokens"]))][:-1]
    before = len(echoed["text"]) - len(alone["text"])
    assert alone["logprobs"]["text_offset"] == begins
    assert before > 0
    assert echoed["logprobs"]["text_offset"][-4:] == [before + begin for begin in begins]
    assert echoed["logprobs"]["text_offset"][0] == 0
    chunks = stream(client, "/v1/completions", **fields)
    assert [n for c in chunks for n in c["choices"][0]["logprobs"]["text_offset"]] == begins


def test_embeddings_as_numbers_and_as_bytes(client: httpx.Client) -> None:
    numbers = client.post("/v1/embeddings", json={"input": ["a cat", "a dog"]}).json()
    coded = client.post("/v1/embeddings", json={"input": "a cat", "encoding_format": "base64"}).json()
    short = client.post("/v1/embeddings", json={"input": "a cat", "dimensions": 5}).json()
    vector = np.array(numbers["data"][0]["embedding"], np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), vector)
    assert len(short["data"][0]["embedding"]) == 5
    assert np.linalg.norm(short["data"][0]["embedding"]) == pytest.approx(1.0, abs=1e-5)
    assert numbers["usage"]["prompt_tokens"] > coded["usage"]["prompt_tokens"] > 0


def test_models_are_listed_and_found(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.get("/v1/models/tiny").json()["object"] == "model"
    assert client.get("/models").json() == client.get("/v1/models").json()
    status, error = refusal(client, model="gpt-9")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_unknown_fields_are_ignored_and_named(client: httpx.Client) -> None:
    response = client.post("/chat/completions", json={**GREEDY, "user": "me", "frobnicate": 1})
    assert response.status_code == 200
    assert response.headers["x-edgellm-ignored"] == "frobnicate, user"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"stop_token_ids": [3]}, "stop_token_ids"),
        ({"functions": [{"name": "f"}], "tools": [{"function": {"name": "f"}}]}, "functions"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "emperor", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    client: httpx.Client, fields: dict[str, Any], named: str
) -> None:
    status, error = refusal(client, **fields)
    assert status == 400
    assert named in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_prompt_beyond_the_context_is_an_error_with_numbers(client: httpx.Client) -> None:
    status, error = refusal(client, messages=[{"role": "user", "content": "word " * 300}])
    assert (status, error["type"], error["code"]) == (
        400,
        "exceed_context_size_error",
        "context_length_exceeded",
    )
    assert "192" in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"messages": NaN', b"\xff\xfe", b'"' + b"x" * 1000]
)
def test_a_body_that_is_not_json_is_an_error_of_the_client(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    status, error = refusal(client, messages=[{"role": "user", "content": "x" * 200_000}])
    assert status == 413
    assert "100000" in error["message"]

    def endless() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    assert client.post("/v1/chat/completions", content=endless()).status_code == 413


def test_a_full_queue_is_said_at_once(
    server: Running, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = server.service.models.loaded[0].model.backend
    proceed = threading.Event()

    def held(*arrays: Any, step: Any = backend.step) -> Any:
        assert proceed.wait(60)
        return step(*arrays)

    monkeypatch.setattr(backend, "step", held)
    with server.client() as other:
        streams = []
        try:
            for _ in range(13):  # of which at most 4 are under way and 8 wait
                body = {**GREEDY, "stream": True}
                request = other.build_request("POST", "/v1/chat/completions", json=body)
                streams.append(other.send(request, stream=True))
                if streams[-1].status_code == 503:
                    break
            refused = streams[-1]
            refused.read()
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["code"] == "queue_full"
        finally:
            proceed.set()
            for one in streams:
                one.close()
    _until_idle(server)


def test_a_client_that_goes_away_frees_its_place(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = server.service.models.loaded[0].model.backend
    n_steps = 0

    def counted(*arrays: Any, step: Any = backend.step) -> Any:
        nonlocal n_steps
        n_steps += 1
        return step(*arrays)

    monkeypatch.setattr(backend, "step", counted)
    endless = {**GREEDY, "max_tokens": None, "n": 2, "stream": True}
    with (
        server.client() as leaving,
        leaving.stream("POST", "/v1/chat/completions", json=endless) as response,
    ):
        lines = response.iter_lines()
        while '"content"' not in next(lines):
            pass
    left_at = n_steps
    _until_idle(server)
    assert n_steps - left_at < 20
    with server.client() as leaving, pytest.raises(httpx.ReadTimeout):
        leaving.post("/v1/chat/completions", json={**endless, "stream": False}, timeout=0.2)
    left_at = n_steps
    _until_idle(server)
    assert n_steps - left_at < 20


def _until_idle(server: Running, seconds: float = 5.0) -> None:
    """Wait for the engine to have nothing to do: much less than the answers would take."""
    scheduler = server.service.models.loaded[0].model.scheduler
    deadline = time.monotonic() + seconds
    while scheduler.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert server.service.models.loaded[0].n_users == 0
