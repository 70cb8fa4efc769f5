"""The Ollama API, through its official client and, where that hides the bytes, without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from tests.support.http_server import Running, until_idle

MESSAGES = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0, "num_predict": 6, "ignore_eos": True}
CHAT: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "options": GREEDY}
TOO_LONG = "word " * 300


@pytest.fixture
def official(server: Running) -> Iterator[ollama.Client]:
    client = ollama.Client(server.url, timeout=60)
    yield client
    client.close()  # type: ignore[no-untyped-call]


def test_a_chat_and_what_it_cost(official: ollama.Client) -> None:
    answer = official.chat("tiny", MESSAGES, options=GREEDY)
    assert (answer.model, answer.done, answer.done_reason) == ("tiny", True, "length")
    assert answer.message.role == "assistant"
    assert answer.message.content
    assert answer.eval_count == 6
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > 1
    assert answer.total_duration is not None
    assert answer.eval_duration is not None
    # Nanoseconds: six tokens take more than a hundred microseconds and less than a minute.
    assert 10**5 < answer.eval_duration <= answer.total_duration < 60 * 10**9


def test_a_stream_holds_the_same_text(official: ollama.Client) -> None:
    whole = official.chat("tiny", MESSAGES, options=GREEDY)
    parts = list(official.chat("tiny:latest", MESSAGES, stream=True, options=GREEDY))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 2
    assert parts[-1].eval_count == 6


def test_it_streams_unless_told_not_to(client: httpx.Client) -> None:
    response = client.post("/api/chat", content=json.dumps(CHAT))  # no content type, as from `curl -d`
    assert response.headers["content-type"] == "application/x-ndjson"
    assert json.loads(response.text.splitlines()[-1])["done"] is True
    assert all(line.startswith("{") for line in response.text.splitlines())
    assert client.post("/api/chat", json={**CHAT, "stream": False}).json()["done"] is True


def test_generate_uses_the_template_unless_raw(official: ollama.Client, client: httpx.Client) -> None:
    chat = official.chat("tiny", [{"role": "system", "content": "be brief"}, *MESSAGES], options=GREEDY)
    told = official.generate("tiny", "hello", system="be brief", options=GREEDY)
    assert told.response == chat.message.content
    raw = official.generate("tiny", "once upon", raw=True, options=GREEDY)
    fields = {"prompt": "once upon", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    assert raw.response == client.post("/v1/completions", json=fields).json()["choices"][0]["text"]
    parts = official.generate("tiny", "hello", system="be brief", options=GREEDY, stream=True)
    assert "".join(part.response or "" for part in parts) == told.response


def test_an_answer_that_was_begun_goes_on(official: ollama.Client) -> None:
    whole = official.chat("tiny", MESSAGES, options=GREEDY).message.content
    assert whole
    logged = official.chat("tiny", MESSAGES, options=GREEDY, logprobs=True).logprobs
    assert logged
    begun = logged[0].token
    rest = official.chat(
        "tiny", [*MESSAGES, {"role": "assistant", "content": begun}], options={**GREEDY, "num_predict": 5}
    )
    assert whole == begun + (rest.message.content or "")


def test_log_probabilities(official: ollama.Client) -> None:
    answer = official.chat("tiny", MESSAGES, options=GREEDY, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 6
    for token in answer.logprobs:
        assert token.top_logprobs is not None
        assert len(token.top_logprobs) == 2
        assert token.logprob == token.top_logprobs[0].logprob < 0
    parts = list(official.chat("tiny", MESSAGES, options=GREEDY, logprobs=True, stream=True))
    streamed = [token.token for part in parts for token in part.logprobs or ()]
    assert streamed == [token.token for token in answer.logprobs]


def test_stop_and_seed(official: ollama.Client) -> None:
    text = official.chat("tiny", MESSAGES, options=GREEDY).message.content or ""
    stopped = official.chat("tiny", MESSAGES, options={**GREEDY, "stop": [text[2:4]]})
    assert stopped.message.content == text[: text.index(text[2:4])]
    assert stopped.done_reason == "stop"
    hot = {**GREEDY, "temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    drawn = [official.chat("tiny", MESSAGES, options={**hot, "seed": s}).message.content for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_embeddings(official: ollama.Client, client: httpx.Client) -> None:
    both = official.embed("tiny", ["a cat", "a dog"])
    assert np.linalg.norm(both.embeddings[0]) == pytest.approx(1.0, abs=1e-5)
    assert list(official.embeddings("tiny", "a cat").embedding) == pytest.approx(list(both.embeddings[0]))
    assert len(official.embed("tiny", "a cat", dimensions=5).embeddings[0]) == 5
    with pytest.raises(ollama.ResponseError, match="192") as refused:
        official.embed("tiny", TOO_LONG, truncate=False)
    assert refused.value.status_code == 400
    cut = official.embed("tiny", TOO_LONG)
    assert cut.prompt_eval_count == 192


def test_what_the_models_are(official: ollama.Client) -> None:
    (listed,) = official.list().models
    assert listed.model == "tiny"
    assert listed.size
    assert listed.details is not None
    assert (listed.details.family, listed.details.quantization_level) == ("llama", "F32")
    assert len(listed.digest or "") == 64
    (running,) = official.ps().models
    assert (running.name, running.context_length) == ("tiny", 192)
    assert running.size
    shown = official.show("tiny")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert "message" in (shown.template or "")


def test_a_request_without_a_prompt_loads_the_model(official: ollama.Client, client: httpx.Client) -> None:
    assert official.generate("tiny").done_reason == "load"
    assert official.chat("tiny").done_reason == "load"
    assert client.get("/api/version").json()["version"]


def test_errors_are_in_ollama_s_shape(official: ollama.Client, client: httpx.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="no model 'other'") as missing:
        official.chat("other", MESSAGES)
    assert missing.value.status_code == 404
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="context holds 192") as refused:
            list(official.chat("tiny", [{"role": "user", "content": TOO_LONG}], stream=stream))
        assert refused.value.status_code == 400
    assert client.post("/api/show", content=b"{").json()["error"].startswith("The body is not valid JSON")


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "images"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ("chat", {"options": {"temperature": -1}}, "temperature"),
        ("chat", {"options": {"num_predict": "many"}}, "num_predict"),
        ("generate", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("generate", {"prompt": "x", "template": "{{ range .Messages }}{{ end }}"}, "template"),
    ],
)
def test_what_cannot_be_done_is_named(
    client: httpx.Client, path: str, fields: dict[str, Any], named: str
) -> None:
    response = client.post(f"/api/{path}", json={**CHAT, **fields})
    assert response.status_code == 400
    assert named in response.json()["error"]


def test_unknown_fields_are_ignored_and_named(client: httpx.Client) -> None:
    options = {**GREEDY, "num_keep": 4}
    response = client.post("/api/chat", json={**CHAT, "options": options, "context": [1]})
    assert response.status_code == 200
    assert response.headers["x-edgellm-ignored"] == "context, options.num_keep"


def test_a_client_that_goes_away_frees_its_place(server: Running) -> None:
    endless = {**CHAT, "options": {**GREEDY, "num_predict": -1}}
    with server.client() as leaving, leaving.stream("POST", "/api/chat", json=endless) as response:
        next(response.iter_lines())
    assert until_idle(server) < 20
