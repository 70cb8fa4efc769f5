"""Few descriptors and little address space."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm.device.memory import free_addresses
from edgellm.engine import grammar
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import BackendError, NoMemoryError
from edgellm.server.scarcity import LoopErrors, no_memory, within_descriptors
from edgellm.server.settings import Limits
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model

SCRIPT = """
import contextlib, resource, socket, sys, time, urllib.request
from pathlib import Path
from edgellm.engine.load_options import LoadOptions
from edgellm.server.logs import configure
from edgellm.server.settings import ServerSettings
from tests.support.http_server import running
configure(as_json=False)
resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))
options = LoadOptions(threads=1, context=128)
with running([("tiny", Path(sys.argv[1]))], options, ServerSettings(port=0)) as server:
    held = []
    with contextlib.suppress(OSError):
        for _ in range(80):
            held.append(socket.create_connection(("127.0.0.1", server.port)))
    time.sleep(1.5)
    for one in held:
        one.close()
    time.sleep(1.5)
    assert b"ok" in urllib.request.urlopen(server.url + "/health").read()
"""

LITTLE = """
import resource, sys
from pathlib import Path
from edgellm.backends import native
from edgellm.cli import main
from edgellm.engine import loading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
sys.exit(main(["run", "-m", sys.argv[1], "-t", "1", "-c", "1000000", "--max-memory", "8G", "hi"]))
"""


def test_connections_follow_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(connections=256)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 120))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: None)
    assert within_descriptors(limits).connections == 56
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 4096))
    assert within_descriptors(limits).connections == 256
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (20, 20))
    assert within_descriptors(limits).connections == 4


def test_scarcity_is_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    handler, loop = LoopErrors(), asyncio.new_event_loop()
    try:
        for _ in range(1000):
            handler(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files")})
        assert len(caplog.records) == 1
        with caplog.at_level(logging.ERROR):
            handler(loop, {"message": "something else", "exception": ValueError("x")})
        assert "something else" in caplog.text
    finally:
        loop.close()


def test_no_memory_is_a_sentence() -> None:
    no_thread = RuntimeError("can't start new thread")
    for one in (MemoryError(), NoMemoryError("x"), OSError(errno.ENOMEM, "No memory"), no_thread):
        assert "tiny" in str(no_memory("tiny", one))
    assert no_memory("tiny", BackendError("x")) is None
    assert no_memory("tiny", OSError(errno.EACCES, "x")) is None


def test_a_server_without_descriptors_goes_on(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    n_lines = done.stderr.count("no connection can be accepted")
    assert n_lines <= time.monotonic() - begin + 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limits of address space")
def test_little_address_space_is_a_sentence_with_numbers(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", **{"llama.context_length": 1_000_000})
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, str(path)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"edgellm: .*tiny.gguf: .* at most [\d.]+ [MG]B \(ulimit -v\) is used up\n", done.stderr
    )


def test_a_request_without_memory_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a"]}}}
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    with running([("tiny", path)], LoadOptions(threads=1)) as server, server.client() as client:
        monkeypatch.setattr(grammar, "free_addresses", lambda: 1 << 20)
        refused = client.post("/v1/chat/completions", json={**body, "response_format": schema})
        assert (refused.status_code, "schema needs more memory" in refused.text) == (503, True)
        monkeypatch.setattr(asyncio, "to_thread", _no_thread)
        refused = client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, "request needs more memory" in refused.text) == (503, True)
        monkeypatch.undo()
        assert client.post("/v1/chat/completions", json=body).status_code == 200


async def _no_thread(*given: object) -> object:
    raise RuntimeError("can't start new thread")


def test_addresses_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_addresses() is None
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 40, 1 << 40))
    left = free_addresses()
    assert left is not None
    assert 0 < left < 1 << 40
