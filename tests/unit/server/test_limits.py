"""Prompts far past the context, stop texts beside calls, and requests that two parsers read in two ways."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.stops import StopFilter
from edgellm.server.settings import ServerSettings
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model

ARGUMENTS = {"type": "object", "properties": {"a": {"const": "x\nEND y"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": ARGUMENTS}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf", **{"llama.context_length": 2048})
    options = LoadOptions(threads=1, context=1024)
    with running(
        [("tiny", path)], options, ServerSettings(port=0, origins=("https://a.example",))
    ) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.mark.parametrize("piece", [" ", "a", "\n", "é", "word ", "=-"])
@pytest.mark.parametrize("n_chars", [8_000, 3_000_000])
def test_a_prompt_far_past_the_context_is_refused(client: httpx.Client, piece: str, n_chars: int) -> None:
    text = piece * (n_chars // len(piece))
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        ("/v1/completions", {"prompt": text}),
        ("/api/embed", {"model": "tiny", "input": [text], "truncate": False}),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 400
        assert "context" in response.text
        assert len(response.text) < 1000
    cut = client.post("/api/embed", json={"model": "tiny", "input": [text]})
    assert cut.status_code == 200
    assert cut.json()["prompt_eval_count"] == 1024


@pytest.mark.parametrize("stop", ["END", "\n", "}", '"a"', "f"])
def test_a_stop_text_does_not_cut_a_call(client: httpx.Client, stop: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stop": stop,
        "max_tokens": 200,
    }
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": "x\nEND y"}


def test_stop_texts_count_until_the_expression_matches() -> None:
    def run(text: str, size: int) -> tuple[str, str | None]:
        stops = StopFilter(["STOP"], "<call>")
        out = "".join(stops.push(text[n : n + size]) for n in range(0, len(text), size))
        return out + ("" if stops.matched else stops.flush()), stops.matched

    for size in (1, 2, 3, 7, 100):
        assert run("ab <call> STOP c", size) == ("ab <call> STOP c", None)
        assert run("ab STOP <call>", size) == ("ab ", "STOP")
        assert run("ab <cal STOP c", size) == ("ab <cal ", "STOP")


def raw(server: Running, request: str) -> str:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode("latin-1"))
        received = b""
        while part := connection.recv(65536):
            received += part
        return received.decode("latin-1")


def test_two_lengths_of_a_body_are_refused_and_the_connection_ends(server: Running) -> None:
    head = "POST /tokenize HTTP/1.1\nHost: localhost\nContent-Length: 3\nTransfer-Encoding: chunked\n\n"
    answer = raw(server, head + "0\n\nGET /v1/models HTTP/1.1\nHost: localhost\n\n")
    assert answer.startswith("HTTP/1.1 400")
    assert answer.count("HTTP/1.1") == 1


@pytest.mark.parametrize(
    "host",
    ["localhost#.evil.com", "localhost/.evil.com", "localhost?.evil.com", "evil.com#localhost",
     "localhost\\.evil.com", "a@localhost", "localhost:80:90", "localhost:x",
     "127.0.0.1.evil.com", "", "[::1", "localhost evil.com"],
)  # fmt: skip
def test_host_values_that_are_read_in_two_ways(server: Running, host: str) -> None:
    answer = raw(server, f"GET /v1/models HTTP/1.1\nHost: {host}\nConnection: close\n\n")
    assert answer.startswith(("HTTP/1.1 403", "HTTP/1.1 400"))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"{", 400),
        ("/nowhere", b"{}", 404),
        ("/v1/completions", b"x" * 9_000_000, 413),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "model": "none"}', 404),
    ],
)
def test_a_page_can_read_why_it_was_refused(
    client: httpx.Client, path: str, body: bytes, status: int
) -> None:
    response = client.post(path, content=body, headers={"origin": "https://a.example"})
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "https://a.example"


def test_answers_hold_no_folders_of_this_machine(server: Running, client: httpx.Client) -> None:
    folder = str(server.service.models.sources[0].path.parent)
    bodies: list[dict[str, Any]] = [
        {"input": "x", "dimensions": 9999},
        {"input": [[999999]]},
        {"input": [[]]},
    ]
    for body in bodies:
        assert folder not in client.post("/v1/embeddings", json=body).text
    for path in ("/props", "/v1/models", "/api/tags", "/api/ps", "/metrics"):
        assert folder not in client.get(path).text
