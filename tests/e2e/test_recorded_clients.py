"""Requests of programs that people use, as those programs send them: each is answered in its own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model

FOLDER = Path(__file__).parents[1] / "data" / "clients"
RECORDED = {
    f"{client['client']}: {request['name']}": request
    for client in (json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json")))
    for request in client["requests"]
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = write_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny.gguf", **{"llama.context_length": 32768}
    )
    options = LoadOptions(threads=1, context=24576, cache_contexts=1, parallel=1)
    with running([("tiny", path)], options) as server, server.client() as opened:
        yield opened


def events_of(response: httpx.Response) -> list[Any]:
    """The JSON values of a stream."""
    kind = response.headers["content-type"]
    if kind.startswith("text/event-stream"):
        lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: {")]
    elif kind.startswith("application/x-ndjson"):
        lines = response.text.splitlines()
    else:
        return [response.json()]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_request_is_answered(client: httpx.Client, name: str) -> None:
    request = RECORDED[name]
    method = request.get("method", "POST")
    content = json.dumps(request["body"]).encode() if "body" in request else None
    headers = {"content-type": "application/json", **request.get("headers", {})}
    response = client.request(method, request["path"], content=content, headers=headers)
    assert response.status_code == request.get("status", 200), response.text
    ignored = response.headers.get("x-edgellm-ignored", "").split(", ")
    assert set(request.get("ignored", ())) <= set(ignored)
    if response.status_code != 200:
        return
    events = events_of(response)
    assert events
    assert not any(event.get("error") for event in events)
    last = events[-1]
    streams = request.get("body", {}).get("stream", False)
    match request["path"].partition("?")[0]:
        case "/v1/responses":
            assert last["type"] in ("response.completed", "response.incomplete")
        case "/v1/messages" if streams:
            assert last["type"] == "message_stop"
        case "/api/chat" | "/api/generate":
            assert last["done"]


def test_structured_answers_of_recorded_requests(client: httpx.Client) -> None:
    def answer(name: str) -> list[Any]:
        request = RECORDED[name]
        return events_of(client.post(request["path"], json=request["body"], headers=request.get("headers")))

    deltas = [e["delta"] for e in answer("Claude Code: title") if e["type"] == "content_block_delta"]
    text = "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")
    assert set(json.loads(text)) == {"title"}
    lines = answer("Home Assistant: data")
    assert set(json.loads("".join(line["message"]["content"] for line in lines))) == {"colour"}
