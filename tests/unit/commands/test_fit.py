"""`edgellm fit` on files, folders, the catalog, and a Hub on this machine that is asked for ranges."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgellm.cli import main
from edgellm.store.catalog import known_models
from edgellm.store.hub_catalog import hub_models
from tests.support.tiny_model import tiny_builder
from tests.unit.benchmark.test_prediction import quick

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")
FILE = "tiny-Q4_K_M.gguf"


class Hub(ThreadingHTTPServer):
    """One repository with one file; notes the bytes that are sent of it."""

    daemon_threads = True
    ranges = True
    sent = 0
    content = b""


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        if self.path == "/api/models/user/repo":
            self._send(200, json.dumps({"siblings": [{"rfilename": FILE}]}).encode())
        elif self.path == f"/user/repo/resolve/main/{FILE}":
            if not hub.ranges:
                self._send(200, hub.content)
                return
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = hub.content[int(first) : int(last) + 1]
            hub.sent += len(part)
            self._send(206, part, f"bytes {first}-{int(first) + len(part) - 1}/{len(hub.content)}")
        else:
            self._send(404, b"")

    def _send(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_builder().write(tmp_path / "tiny.gguf")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("EDGELLM_THREADS", "1")
    for name in ("HF_HUB_OFFLINE", "EDGELLM_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, model: Path) -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), _Handler) as server:
        server.content = model.read_bytes()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()
        thread.join()


def _fit(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["fit", "--json", *arguments]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("ranges", [True, False])
def test_a_repository_is_judged_by_its_header(
    hub: Hub, ranges: bool, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellm.gguf.distant._FIRST_BYTES", 256)
    hub.ranges = ranges
    (found,) = _fit(capsys, "user/repo:Q4_K_M")
    (own,) = _fit(capsys, str(model))
    assert (found["basis"], own["basis"]) == ("header", "file")
    different = {"name", "basis", "on_disk"}
    assert {k: v for k, v in found.items() if k not in different} == {
        k: v for k, v in own.items() if k not in different
    }
    assert hub.sent < len(hub.content) // 2


def test_a_repository_that_is_not_there_is_one_sentence(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "user/nothing:Q4_K_M"]) == 1
    assert "user/nothing:Q4_K_M: its header cannot be read" in capsys.readouterr().err
    assert main(["fit", "user/repo:Q4_K_M", "--offline"]) == 1
    assert "the network is off" in capsys.readouterr().err


def test_all_needs_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    found = {str(row["name"]): row for row in _fit(capsys, "all", "--offline")}
    assert found.keys() >= {m.name for m in hub_models()} | {m.name for m in known_models()}
    assert found["all-minilm-l6-v2"]["answer_tok_s"] is None
    speeds = [found[name]["answer_tok_s"] for name in ("qwen3-0.6b", "qwen3-1.7b", "qwen3-8b")]
    assert speeds == sorted(speeds, reverse=True)  # type: ignore[type-var]
    assert main(["fit", "--offline"]) == 0
    table = capsys.readouterr().out
    assert "qwen3-0.6b" in table
    assert "within 40%" in table


def test_a_folder_of_files_and_one_that_is_no_model(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "wrong.gguf").write_bytes(b"GGUF")
    assert main(["fit", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("tiny.gguf")
    assert lines[1].endswith("yes")
    assert "wrong.gguf" in lines[2]
    assert "bytes" in lines[2]
    (tmp_path / "empty").mkdir()
    assert main(["fit", str(tmp_path / "empty")]) == 1
    assert "holds no GGUF file" in capsys.readouterr().err
    assert main(["fit", "nothing"]) == 1
    assert "no model of that name" in capsys.readouterr().err


def test_the_measurement_is_kept_in_the_state_folder(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fit", str(model)]) == 0
    assert "measuring this machine" in capsys.readouterr().err
    assert (tmp_path / "home" / "state" / "rates.json").is_file()
    assert main(["fit", str(model)]) == 0
    assert "measuring" not in capsys.readouterr().err
