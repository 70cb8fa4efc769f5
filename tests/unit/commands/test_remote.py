"""`edgellm chat --url`: with edgellm's own server, and with servers that misbehave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgellm.commands.chat import talk
from edgellm.commands.conversation import Conversation
from edgellm.commands.remote import RemoteModel, Server
from edgellm.commands.thoughts import shown_thoughts
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.options import GenerateOptions
from edgellm.errors import ContextOverflowError, ServerError, UsageError
from edgellm.server.settings import ServerSettings
from tests.support.cli import edgellm
from tests.support.http_server import Running, running, until_idle
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]

KEY = "secret"
GREEDY = GenerateOptions(temperature=0, max_tokens=6)


@pytest.fixture(scope="module")
def server(unpacked: Path) -> Iterator[Running]:
    options = LoadOptions(backend="interpreter", context=192, cache_tokens=2048, parallel=4)
    settings = ServerSettings(port=0, api_keys=(KEY,))
    with running([("tiny", official_gguf("llama", unpacked))], options, settings) as started:
        yield started


class Chat:
    """A conversation over the network and what it wrote."""

    def __init__(self, model: RemoteModel, options: GenerateOptions = GREEDY) -> None:
        self.written: list[str] = []
        self.conversation = Conversation(model, options, None, self.written.append)

    def says(self, *lines: str) -> None:
        remaining = iter(lines)

        def read(prompt: str) -> str:
            for line in remaining:
                return line
            raise EOFError

        talk(self.conversation, read)


@contextmanager
def scripted(*answers: bytes | Callable[[socket.socket], None]) -> Iterator[str]:
    """URL of a server that sends the next of these answers to each connection, for any request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    _read_request(connection)
                    if callable(answer):
                        answer(connection)
                    else:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def _read_request(connection: socket.socket) -> None:
    """Read all of it: unread bytes would reset the connection at its close, and the answer might be lost."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    n_left = int(length[1]) - len(body) if length else 0
    while n_left > 0:
        n_left -= len(connection.recv(65536))


def response(status: int, body: bytes, kind: str = "application/json") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nConnection: close\r\n\r\n%s" % (status, kind.encode(), body)


def events(*values: dict[str, Any] | str) -> bytes:
    lines = [f"data: {one if isinstance(one, str) else json.dumps(one)}\r\n\r\n" for one in values]
    return response(200, "".join(lines).encode(), "text/event-stream")


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields}]}


END: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def test_it_talks_with_the_server_s_model(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(RemoteModel(Server(server.url + "/v1/", KEY), None))
    assert chat.conversation.model.name == "tiny"
    chat.says("once", "/stats", "/context", "/set", "/regen", "/system Be brief.", "again", "/undo")
    asked = [{"role": "user", "content": "once"}]
    with server.client(authorization=f"Bearer {KEY}") as client:
        body = {"messages": asked, "temperature": 0, "max_tokens": 6}
        message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert chat.conversation.messages == [*asked, {"role": "assistant", "content": message["content"]}]
    text = capsys.readouterr().err
    assert text.count("6 tokens, ") == 4
    assert "% full" in text
    assert "ended by length" in text
    assert "of 192 tokens" in text
    assert "temperature = 0" in text
    assert "top_k = not set" in text
    until_idle(server)


def test_a_prompt_beyond_the_context_is_said_and_taken_back(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat(RemoteModel(Server(server.url, KEY), "tiny"))
    chat.says("x" * 5000)
    assert chat.conversation.messages == []
    assert "(/undo or /clear)" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_frees_the_server(server: Running) -> None:
    chat = Chat(RemoteModel(Server(server.url, KEY), None), GenerateOptions(temperature=0, ignore_eos=True))

    def interrupt(text: str) -> None:
        chat.written.append(text)
        if len(chat.written) == 1:  # a second one would end the program
            os.kill(os.getpid(), signal.SIGINT)

    chat.conversation = Conversation(chat.conversation.model, chat.conversation.options, None, interrupt)
    reply = chat.conversation.ask("once")
    assert reply.finish_reason == "cancelled"
    assert reply.stats is not None
    assert chat.conversation.messages[-1]["content"] == reply.text
    assert until_idle(server) < 20


def test_refusals_are_one_sentence(server: Running) -> None:
    with pytest.raises(ServerError, match=r"answers 401: .* \(--api-key gives the key\)"):
        RemoteModel(Server(server.url, "wrong"), None)
    with pytest.raises(ServerError, match=r"answers 404: There is no model 'other'; the models are tiny"):
        list(RemoteModel(Server(server.url, KEY), "other").chat([{"role": "user", "content": "a"}], GREEDY))


def test_nothing_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerError, match="Nothing answers at http://127"):
        RemoteModel(Server(f"127.0.0.1:{port}", None), None)


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a/?q"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(UsageError, match="expected an address"):
        Server(url, None)


def test_thoughts_and_figures_of_a_server_that_sends_only_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    thoughts = shown_thoughts(hide=False, fold=False)
    answer = events(
        {"choices": []},
        delta(role="assistant", reasoning_content="hm"),
        delta(reasoning_content="m"),
        delta(content="yes"),
        END,
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
        "[DONE]",
    )
    with scripted(answer) as url:
        reply = RemoteModel(Server(url, None), "any", thoughts=thoughts).chat([], GREEDY)
        assert "".join(reply) == "yes"
    assert capsys.readouterr() == ("", "hmm\n\n")
    assert (reply.text, reply.finish_reason) == ("yes", "stop")
    assert reply.stats is not None
    assert (reply.stats.n_prompt, reply.stats.n_generated) == (7, 5)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (events(delta(content="a")), "broke the answer off"),
        (events(delta(content="a"), {"error": {"message": "out of paper"}}), "out of paper"),
        (events("{"), "not the OpenAI API"),
        (response(200, b"<html>"), "broke the answer off"),
        (response(503, b'{"error": {"message": "still being loaded"}}'), "answers 503: still being loaded"),
        (response(500, b'{"detail": "no"}'), "answers 500: no"),
        (response(502, b"<h1>Bad</h1>"), "answers 502: <h1>Bad</h1>"),
        (response(301, b""), "answers 301: Moved Permanently"),
        (b"garbage\r\n\r\n", "broke the connection off"),
        (b"", "broke the connection off"),
    ],
)
def test_a_server_that_misbehaves_is_named(answer: bytes, says: str) -> None:
    with scripted(answer) as url:
        reply = RemoteModel(Server(url, None), "any").chat([], GREEDY)
        with pytest.raises(ServerError, match=says) as caught:
            list(reply)
    assert url in str(caught.value)


def test_the_other_servers_word_for_a_full_context() -> None:
    body = {"error": {"message": "too long", "code": 400, "type": "exceed_context_size_error"}}
    with (
        scripted(response(400, json.dumps(body).encode())) as url,
        pytest.raises(ContextOverflowError, match="too long"),
    ):
        list(RemoteModel(Server(url, None), "any").chat([], GREEDY))


def test_a_server_without_models_is_said() -> None:
    for body in (b"[]", b'{"data": []}', b'{"data": [1]}', b"{"):
        with scripted(response(200, body)) as url, pytest.raises(ServerError):
            RemoteModel(Server(url, None), None)


def test_the_command(server: Running) -> None:
    result = edgellm(
        *("chat", "--url", server.url, "--temp", "0", "-n", "4"), stdin="once\n", EDGELLM_API_KEY=KEY
    )
    assert result.status == 0, result.err
    assert result.out.strip()
    assert "4 tok" in result.err
    refused = edgellm("chat", "--url", server.url, "-c", "512")
    assert (refused.status, refused.out) == (2, "")
    assert "-c is for a model that is loaded here" in refused.err
