"""A models folder with entries that are no models: the others are listed and served."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.commands.serve import models_in
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import FileError
from edgellm.server import folder as module
from edgellm.server.models import ModelManager
from edgellm.server.settings import ServerSettings
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model


def truncated(path: Path) -> None:
    path.write_bytes(write_tiny_model(path.with_suffix(".tmp")).read_bytes()[:1000])


ENTRIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    ),
    "magic only": lambda path: path.write_bytes(b"GGUF"),
    "truncated": truncated,
    "folder": lambda path: path.mkdir(),
    "dangling": lambda path: path.symlink_to("nowhere.gguf"),
    "looping": lambda path: path.symlink_to(path),
    "to a folder": lambda path: path.symlink_to(path.parent),
    "through a file": lambda path: path.symlink_to("good.gguf/x"),
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "good.gguf")
    module._leave_out.cache_clear()
    module._reads.cache_clear()
    return tmp_path


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_that_is_no_model_is_left_out(
    models: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    ENTRIES[kind](models / "bad\x1b[31m.gguf")
    for _ in range(2):
        assert [name for name, _ in models_in(models)] == ["good"]
    assert len(caplog.records) == 1
    assert "left out" in caplog.text
    assert "\x1b" not in caplog.records[0].getMessage()


def test_a_name_that_is_not_utf_8_is_left_out(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open(os.fsencode(models) + b"/bad\xff.gguf", "wb") as file:
        file.write((models / "good.gguf").read_bytes())
    assert [name for name, _ in models_in(models)] == ["good"]
    assert "UTF-8" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_left_out(models: Path) -> None:
    (models / "bad.gguf").write_bytes(b"GGUF")
    (models / "bad.gguf").chmod(0)
    assert [name for name, _ in models_in(models)] == ["good"]


def test_a_file_that_is_damaged_later_is_not_listed_and_breaks_nothing(models: Path) -> None:
    bad = write_tiny_model(models / "bad.gguf")
    options = LoadOptions(threads=1, context=128)
    manager = ModelManager(models_in(models), options, on_demand=True, look=lambda: models_in(models))
    with running([], options, ServerSettings(port=0), manager) as server, server.client() as client:
        assert {model["name"] for model in client.get("/api/tags").json()["models"]} == {"good", "bad"}
        bad.write_bytes(b"GGUF, and then something else")
        assert {model["name"] for model in client.get("/api/tags").json()["models"]} == {"good"}
        body = {"model": "bad", "messages": [{"role": "user", "content": "x"}]}
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code >= 400
        assert str(models) not in refused.text
        assert client.post("/v1/chat/completions", json={**body, "model": "good", "max_tokens": 1}).is_success


def test_a_folder_of_nothing_usable_says_so(tmp_path: Path) -> None:
    from edgellm.commands.serve import find_models

    (tmp_path / "bad.gguf").write_bytes(b"")
    with pytest.raises(FileError, match="holds no GGUF file"):
        find_models(str(tmp_path), None)  # type: ignore[arg-type]


def test_control_characters_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    from edgellm.server.logs import _JSONFormatter, _TextFormatter

    try:
        raise ValueError("\x1b]0;title\x07 \x9b31m")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "m \x1b \x9b \x7f", (), info)
    for formatter in (_JSONFormatter(), _TextFormatter()):
        line = formatter.format(record)
        assert not any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in line)
