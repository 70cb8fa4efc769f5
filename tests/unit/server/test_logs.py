"""Server log: one line for each record, for any input of clients."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from edgellm.server.logs import FIELDS, configure
from edgellm.server.served import Loaded

SENT = "GET /\x1b[2J\r\n12:00:00 info: all is well\x9b"


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    kept = {name: logging.getLogger(name) for name in ("edgellm", "uvicorn")}
    states = {name: (logger.handlers, logger.propagate, logger.level) for name, logger in kept.items()}
    yield
    for name, logger in kept.items():
        logger.handlers, logger.propagate, level = states[name]
        logger.setLevel(level)


def test_what_clients_send_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure(as_json=False)
    logging.getLogger("edgellm.server").info("%s", SENT, extra={FIELDS: {"status": 404}})
    line = capsys.readouterr().err
    assert line.endswith("info: GET /\ufffd[2J 12:00:00 info: all is well\ufffd status=404\n")
    assert line[:-1].isprintable()


def test_json_holds_what_clients_send(capsys: pytest.CaptureFixture[str]) -> None:
    configure(as_json=True)
    logging.getLogger("edgellm.server").info("%s", SENT, extra={FIELDS: {"status": 404}})
    line = capsys.readouterr().err
    assert json.loads(line)["message"] == SENT
    assert json.loads(line)["status"] == 404
    assert line.count("\n") == 1


@pytest.mark.parametrize("streams", [False, True])
def test_the_line_of_an_answer_has_model_tokens_and_speed(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, streams: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "once"}], "max_tokens": 4, "ignore_eos": True}
    with caplog.at_level(logging.INFO, "edgellm.server"):
        assert client.post("/v1/chat/completions", json={**body, "stream": streams}).status_code == 200
        assert client.get("/health").status_code == 200
        deadline = time.monotonic() + 30
        while len(lines := _fields(caplog)) < 2:  # a line comes after the end of its response
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "model" not in lines["GET /health"]
    fields = lines["POST /v1/chat/completions"]
    assert fields["model"] == "tiny"
    assert fields["answer"] == 4
    assert fields["prompt"] > fields["cached"] >= 0
    assert fields["tok_s"] > 0


def test_a_loaded_model_is_described_by_the_parts_of_its_memory() -> None:
    memory = {"weights": 92_000_000, "cache": 360_000_000, "scratch": 4_000_000, "states": 0}
    model: Any = SimpleNamespace(memory=memory, n_ctx=4096)
    runner: Any = None
    loaded = Loaded("tiny", model, runner, 0.0, lambda: None)
    parts = "weights 92.0 MB, cache 360 MB, scratch 4.0 MB"
    assert loaded.memory_text == f"456 MB ({parts}) with a context of 4096"


def _fields(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    """Fields of requests' lines, by their messages."""
    lines = [record for record in caplog.records if FIELDS in record.__dict__]
    return {record.getMessage(): record.__dict__[FIELDS] for record in lines}
