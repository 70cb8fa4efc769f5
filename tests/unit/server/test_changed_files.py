"""A served file that is shortened, overwritten or replaced: 503 until it is a model again, and no crash."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server import served
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model

BODY = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "temperature": 0.0, "ignore_eos": True}
LONG = {**BODY, "max_tokens": 100_000, "stream": True}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


@pytest.fixture
def server(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(served, "SETTLED_S", -1.0)
    with running([("tiny", model)], LoadOptions(threads=2)) as server:
        yield server


def ask(server: Running, path: str = "/v1/completions", **changes: object) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={**BODY, **changes})


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    answer = response.json()["choices"][0]["text"]
    assert isinstance(answer, str)
    return answer


@pytest.mark.parametrize("n_bytes", [0, 100, 4096, -4096, -1])
def test_a_file_that_is_shortened(server: Running, model: Path, n_bytes: int) -> None:
    before, content = text(ask(server)), model.read_bytes()
    os.truncate(model, n_bytes if n_bytes >= 0 else len(content) + n_bytes)
    for _ in range(3):
        refused = ask(server)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_changed"
        assert "retry-after" in refused.headers
    model.write_bytes(content)
    assert text(ask(server)) == before


def test_a_file_that_is_overwritten_in_place(server: Running, model: Path, tmp_path: Path) -> None:
    before, size = text(ask(server)), model.stat().st_size
    other = write_tiny_model(tmp_path / "other.gguf", **{"general.name": "Thin"})
    content = other.read_bytes()
    assert len(content) == size
    with open(model, "r+b") as file:
        file.write(content)
    assert text(ask(server)) == before  # the same weights under another name
    assert server.service.models.n_loads == 2
    with open(model, "r+b") as file:
        file.write(bytes(size))
    assert ask(server).status_code == 503
    with open(model, "r+b") as file:
        file.write(content)
    assert text(ask(server)) == before


def test_a_file_that_is_replaced_is_loaded_anew(server: Running, model: Path, tmp_path: Path) -> None:
    before = text(ask(server))
    new = tmp_path / "new"
    shutil.copyfile(model, new)
    os.replace(new, model)
    assert text(ask(server)) == before
    assert server.service.models.n_loads == 2


def test_a_file_that_is_deleted_goes_on_answering(server: Running, model: Path) -> None:
    before = text(ask(server))
    model.unlink()
    assert text(ask(server)) == before


def test_answers_under_way_end_with_an_error(server: Running, model: Path) -> None:
    content, loaded = model.read_bytes(), server.service.models.loaded[0]
    step = loaded.model.backend.step

    def slow(*arrays: object, **options: object) -> object:
        time.sleep(0.02)
        return step(*arrays, **options)  # type: ignore[arg-type]

    loaded.model.backend.step = slow  # type: ignore[method-assign, assignment]
    with server.client() as client, client.stream("POST", "/v1/completions", json=LONG) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        os.truncate(model, 4096)
        rest = "".join(lines)
    assert "was shortened or overwritten" in rest
    assert ask(server).status_code == 503
    model.write_bytes(content)
    text(ask(server))


def test_a_file_that_is_being_written_is_left_alone(
    server: Running, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "SETTLED_S", 3600.0)
    text(ask(server))
    os.utime(model)
    assert "being written" in ask(server).json()["error"]["message"]
    assert server.service.models.n_loads == 1
    monkeypatch.setattr(served, "SETTLED_S", -1.0)
    text(ask(server))
