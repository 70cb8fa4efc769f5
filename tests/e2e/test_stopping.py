"""How a server ends: with requests under way, and when its engine makes no progress."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model

SLOW_STEPS = """
from edgellm.backends.native import NativeBackend
step = NativeBackend.step
def slow(self, *arrays):
    time.sleep(0.2)
    return step(self, *arrays)
NativeBackend.step = slow
"""
# The second step never ends, without the interpreter, as in a pool whose threads wait for each other.
STUCK_STEPS = """
from edgellm.backends.native import NativeBackend
step, n_steps = NativeBackend.step, 0
def stuck(self, *arrays):
    global n_steps
    n_steps += 1
    if n_steps > 1:
        threading.Lock().acquire() and threading.Event().wait()
    return step(self, *arrays)
NativeBackend.step = stuck
"""
BODY = {"prompt": "a", "max_tokens": 200, "temperature": 0.0, "ignore_eos": True}


class Server:
    """A server in a process of its own; its log is read as it comes."""

    def __init__(self, model: Path, patch: str, *arguments: str) -> None:
        script = f"import sys, threading, time\n{patch}\nfrom edgellm.__main__ import main\nsys.exit(main())"
        command = [sys.executable, "-c", script, "serve", str(model), "--port", "0", "-t", "2", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log = ""
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if "ready:" in line:
                self.ready.set()

    def client(self) -> httpx.Client:
        (url,) = re.findall(r"listening on (http://\S+)", self.log)
        return httpx.Client(base_url=url, timeout=60)

    def end(self) -> int:
        """The exit status."""
        status = self.process.wait(60)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@contextmanager
def serving(model: Path, patch: str, *arguments: str) -> Iterator[Server]:
    server = Server(model, patch, *arguments)
    try:
        assert server.ready.wait(60), server.log
        yield server
    finally:
        server.process.kill()
        server.end()


class Asking(threading.Thread):
    """A request on a thread: its status, and its text, which ends early if the connection breaks."""

    def __init__(self, server: Server, body: dict[str, object], path: str = "/v1/completions") -> None:
        super().__init__()
        self._client, self._body, self._path = server.client(), body, path
        self.status, self.text = 0, ""
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self._client, self._client.stream("POST", self._path, json=self._body) as response:
                self.status = response.status_code
                for piece in response.iter_text():
                    self.text += piece
                    self.begun.set()
        except httpx.HTTPError as error:
            self.text += f" [{type(error).__name__}]"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


def test_a_second_interrupt_ends_at_once(model: Path) -> None:
    with serving(model, SLOW_STEPS) as server:
        asking = [Asking(server, {**BODY, "stream": True}) for _ in range(3)]
        assert asking[0].begun.wait(30)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
        for one in asking:
            one.join()
    assert "Traceback" not in server.log
    assert "Fatal" not in server.log


def test_what_the_drain_leaves_gets_503(model: Path) -> None:
    patch = SLOW_STEPS + "import edgellm.server.run as run\nrun.DRAIN_S = 1.0\n"
    with serving(model, patch) as server:
        stream = Asking(server, {**BODY, "stream": True})
        whole = Asking(server, BODY)
        chat = Asking(
            server,
            {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 200},
            "/v1/messages",
        )
        embedding = [Asking(server, {"input": ["a"] * 100}, "/v1/embeddings") for _ in range(2)]
        assert stream.begun.wait(30)
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
        for one in (stream, whole, chat, *embedding):
            one.join()
    assert (whole.status, json.loads(whole.text)["error"]["code"]) == (503, "server_stopping")
    assert (chat.status, json.loads(chat.text)["type"]) == (503, "error")
    assert stream.status == 200
    assert "server_stopping" in stream.text
    assert {one.status for one in embedding} <= {200, 503}
    assert "Traceback" not in server.log


def test_a_step_without_progress_ends_the_server(model: Path) -> None:
    with serving(model, STUCK_STEPS, "--step-timeout", "5s") as server:
        stream = Asking(server, {**BODY, "stream": True})
        assert stream.begun.wait(30)  # the first step is its own
        whole = Asking(server, BODY)
        embedding = Asking(server, {"input": "a"}, "/v1/embeddings")
        assert server.end() == 70
        for one in (stream, whole, embedding):
            one.join()
    assert whole.status == 503
    assert embedding.status == 503
    assert "server_stopping" in stream.text
    assert "--step-timeout" in server.log
    assert "in stuck" in server.log  # the place of Python's thread
    assert re.search(r"thread \d+ \S+: state S, in \S+, [\d.]+ s of CPU", server.log)


def test_a_stopped_process_is_no_stalled_step(model: Path) -> None:
    with serving(model, SLOW_STEPS, "--step-timeout", "2s") as server:
        whole = Asking(server, {**BODY, "max_tokens": 10})
        time.sleep(0.5)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        server.process.send_signal(signal.SIGCONT)
        whole.join()
        assert whole.status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
