"""`edgellm serve` as a process: it prints its address, drains on SIGTERM, and fails with one sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgellm", "serve", "--backend", "interpreter", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """Environment without the configuration of the user who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_")}
    return {**kept, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """(process, URL, lines of its log so far)."""
    process = subprocess.Popen(
        command("--port", "0", *arguments), stderr=subprocess.PIPE, text=True, env=environment(folder)
    )
    assert process.stderr is not None
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "ready:" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(60)
        url = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))
        assert url is not None, lines
        yield process, url[0], lines
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def test_an_answer_under_way_is_finished_on_sigterm(
    tmp_path: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And systemd is told when the server is ready and when it stops."""
    model = official_gguf("llama", unpacked)
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with serving(tmp_path, str(model), "-c", "256") as (process, url, lines):
        body = {"prompt": "once", "max_tokens": 30, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            received = response.iter_lines()
            next(received)
            process.send_signal(signal.SIGTERM)
            rest = list(received)
        assert rest[-2] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-4]
        assert process.wait(30) == 0
    assert not any("Traceback" in line for line in lines)
    with systemd:
        assert [systemd.recv(100), systemd.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_a_folder_is_all_its_models_and_the_network_needs_a_key(tmp_path: Path, unpacked: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.gguf").symlink_to(official_gguf("llama", unpacked))
    with serving(tmp_path, str(folder), "--api-key", "k", "--log-json") as (_, url, lines):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        models = httpx.get(f"{url}/v1/models", headers={"x-api-key": "k"}).json()["data"]
        assert [model["id"] for model in models] == ["one", "two"]
    assert any(line.startswith('{"time": ') and '"status": 401' in line for line in lines)


def test_what_cannot_be_served_is_one_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nothing")
    for arguments, said in (
        ((str(bad),), "bad.gguf"),
        ((str(tmp_path / "missing.gguf"),), "missing.gguf"),
        ((str(bad), "--port", "99999"), "port"),
    ):
        line, env = command("--port", "0", *arguments), environment(tmp_path)
        done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
