"""Server log: one line for each record, for any input of clients."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from edgellm.server.logs import FIELDS, configure

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
