"""Answers that go on without their reader, the progress of prompts, and answers that are continued."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.errors import OverloadedError
from edgellm.server import kept
from edgellm.server.errors import RequestError
from edgellm.server.kept import KeptAnswers
from tests.support.http_server import Running, running, until_idle

NAME = "0123456789abcdef"
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "once"}],
    "stream": True,
    "ignore_eos": True,
}


def chunks_of(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])


def begin(client: httpx.Client, body: dict[str, Any]) -> str:
    """Start an answer, read its first words, and go away; its name."""
    name = secrets.token_hex(16)
    with client.stream("POST", "/v1/chat/completions", json={**body, "answer_id": name}) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: ") and text_of([json.loads(line[6:])]):
                break
    return name


def test_an_answer_goes_on_without_its_reader(server: Running, client: httpx.Client) -> None:
    body = {**ASKED, "max_tokens": 60, "temperature": 0}
    whole = chunks_of(client.post("/v1/chat/completions", json=body).text)
    name = begin(client, body)
    for _ in range(2):  # any number of readers, at any time
        again = chunks_of(client.get(f"/v1/answers/{name}").text)
        assert text_of(again) == text_of(whole)
        assert again[-1]["timings"]["predicted_n"] == 60
    assert until_idle(server) == 0
    refused = client.post("/v1/chat/completions", json={**body, "answer_id": name})
    assert refused.status_code == 409


def test_an_answer_without_a_name_ends_with_its_reader(server: Running, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=ASKED) as response:
        next(response.iter_lines())
    assert until_idle(server) < 20


def test_a_stopped_answer_says_what_it_cost(client: httpx.Client, server: Running) -> None:
    (loaded,) = server.service.models.loaded
    step = loaded.model.backend.step

    def slow(*arrays: Any) -> Any:
        time.sleep(0.02)
        return step(*arrays)

    loaded.model.backend.step = slow  # type: ignore[method-assign, assignment]
    try:
        name = begin(client, ASKED)
        assert client.delete(f"/v1/answers/{name}").json()["id"] == name
        chunks = chunks_of(client.get(f"/v1/answers/{name}").text)
    finally:
        loaded.model.backend.step = step  # type: ignore[method-assign]
    assert 0 < chunks[-1]["timings"]["predicted_n"] < 150
    assert until_idle(server) == 0


@pytest.mark.parametrize("name", ["short", "with space in the name", "a" * 65, "ü" * 20])
def test_names_must_be_hard_to_guess(client: httpx.Client, name: str) -> None:
    response = client.post("/v1/chat/completions", json={**ASKED, "answer_id": name})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "answer_id"
    whole = client.post("/v1/chat/completions", json={**ASKED, "stream": False, "answer_id": NAME})
    assert "stream" in whole.json()["error"]["message"]
    assert client.get("/v1/answers/none").status_code == 404
    assert client.delete("/v1/answers/none").status_code == 404


class _Source:
    """A stream that goes on as it is told."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.n_ends = 0

    async def read(self) -> AsyncIterator[bytes]:
        while (part := await self.parts.get()) is not None:
            yield part

    def start(self, answers: KeptAnswers, name: str) -> AsyncGenerator[bytes, None]:
        return answers.start(name, self.read(), stop=lambda: None, on_end=self.end)

    def end(self) -> None:
        self.n_ends += 1


def test_an_answer_that_nobody_asks_for_is_dropped() -> None:
    async def scene() -> None:
        answers, source = KeptAnswers(keep_s=0.05), _Source()
        reader = source.start(answers, NAME)
        source.parts.put_nowait(b"a")
        assert await anext(reader) == b"a"
        await asyncio.sleep(0.15)
        assert answers.find(NAME)  # it has a reader
        await reader.aclose()
        again = answers.follow(NAME)
        assert await anext(again) == b"a"
        await asyncio.sleep(0.15)
        await again.aclose()
        assert source.n_ends == 0
        await asyncio.sleep(0.15)
        assert source.n_ends == 1  # it was under way still
        with pytest.raises(RequestError):
            answers.find(NAME)

    asyncio.run(scene())


def test_running_answers_take_places_and_ended_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_KEPT", 2)

    async def scene() -> None:
        answers, sources = KeptAnswers(), [_Source() for _ in range(4)]
        names = [f"{NAME}{i}" for i in range(4)]
        for source, name in zip(sources[:2], names[:2], strict=True):
            source.start(answers, name)
        with pytest.raises(OverloadedError):
            sources[2].start(answers, names[2])
        sources[0].parts.put_nowait(None)
        await asyncio.sleep(0.01)
        sources[2].start(answers, names[2])
        with pytest.raises(RequestError, match="No answer"):
            answers.find(names[0])
        with pytest.raises(RequestError, match="already"):
            sources[3].start(answers, names[2])
        answers.close()
        await asyncio.sleep(0.01)
        assert [source.n_ends for source in sources] == [1, 1, 1, 0]

    asyncio.run(scene())


def test_long_streams_make_room_by_their_bytes() -> None:
    async def scene() -> None:
        answers, source = KeptAnswers(max_bytes=10), _Source()
        reader = source.start(answers, NAME)
        source.parts.put_nowait(b"x" * 11)
        source.parts.put_nowait(None)
        assert [part async for part in reader] == [b"x" * 11]
        _Source().start(answers, NAME + "2")
        with pytest.raises(RequestError):
            answers.find(NAME)
        answers.close()

    asyncio.run(scene())


def test_a_stream_says_how_much_of_the_prompt_is_done(tiny_model: Path) -> None:
    options = LoadOptions(backend="interpreter", context=192, batch=32)
    with running([("tiny", tiny_model)], options) as server, server.client() as client:
        (loaded,) = server.service.models.loaded
        step = loaded.model.backend.step

        def slow(*arrays: Any) -> Any:
            time.sleep(0.5)
            return step(*arrays)

        loaded.model.backend.step = slow  # type: ignore[method-assign, assignment]
        messages = [{"role": "user", "content": "once upon a time " * 8}]
        body = {"messages": messages, "stream": True, "max_tokens": 1, "return_progress": True}
        chunks = chunks_of(client.post("/v1/chat/completions", json=body).text)
    progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    total, done = chunks[-1]["timings"]["prompt_n"], [one["processed"] for one in progress]
    assert {one["total"] for one in progress} == {total}
    assert done == sorted(done)
    assert 0 < done[-1] <= total
    assert "prompt_progress" not in chunks[-1]


def test_an_answer_goes_on_from_its_beginning(client: httpx.Client) -> None:
    asked, begun = ASKED["messages"], {"role": "assistant", "content": "upon a"}
    body = {"max_tokens": 7, "temperature": 0, "ignore_eos": True}
    chat = {**body, "messages": [*asked, begun], "continue_final_message": True}
    rest = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    prompt = client.post("/apply-template", json={"messages": asked}).json()["prompt"] + "upon a"
    expected = client.post("/v1/completions", json={**body, "prompt": prompt}).json()["choices"][0]["text"]
    assert rest == expected
    chat["continue_final_message"] = False
    assert client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"] != rest
    refused = client.post(
        "/v1/chat/completions", json={**chat, "messages": asked, "continue_final_message": True}
    )
    assert refused.status_code == 400
