"""`edgellm convert user/repo@revision` against a Hub on this machine: its requests and its result."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.cli import edgellm

pytest.importorskip("edgellm._native", reason="needs the built extension module")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The part of the Hub's protocol that a download needs, for one repository with one tagged revision."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: set[str] = set()
        # Bytes after which the connection breaks, once.
        self.break_after: int | None = None
        self.broke = False

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path in ("/api/models/user/repo/revision/v1", f"/api/models/user/repo/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self._send(json.dumps({"id": "user/repo", "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif path == f"/api/models/user/repo/tree/{COMMIT}":
            files = self.server.files.items()
            tree = [{"type": "file", "path": name, "size": len(raw), "oid": "0"} for name, raw in files]
            self._send(json.dumps(tree).encode(), body)
        elif path.startswith(f"/user/repo/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/user/repo/resolve/{COMMIT}/")
            self.server.asked.add(name)
            self._send(self.server.files[name], body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, body: bool) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        limit = self.server.break_after
        if body and limit is not None and len(part) > limit:
            self.server.break_after, self.server.broke = None, True
            part = part[:limit]
            self.close_connection = True
        if body:
            self.wfile.write(part)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_checkpoint(tmp_path / "source")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {"README.md": b"-", "pytorch_model.bin": b"\x80", "model.gguf": b"GGUF", "run.py": b"1 / 0"}
    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _convert(hub: Hub, home: Path, out: Path, source: str) -> tuple[int, str]:
    done = edgellm(
        "convert", source, out, "--type", "F16", HF_ENDPOINT=hub.url, HF_HOME=str(home),
        HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1",
    )  # fmt: skip
    return done.status, done.err


def test_a_revision_is_fetched_without_what_is_not_needed(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    status, error = _convert(hub, tmp_path / "home", out, "user/repo@v1")
    assert status == 0, error
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= hub.asked
    assert not hub.asked & {"README.md", "pytorch_model.bin", "model.gguf", "run.py"}
    local = tmp_path / "local.gguf"
    folder = next((tmp_path / "home").glob(f"**/snapshots/{COMMIT}"))
    assert edgellm("convert", folder, local, "--type", "F16", "--no-receipt").status == 0
    assert len(out.read_bytes()) > len(local.read_bytes()) > 1000
    assert COMMIT.encode() in out.read_bytes()


def test_a_broken_download_leaves_nothing_wrong_behind(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 60_000
    status, error = _convert(hub, tmp_path / "home", tmp_path / "out.gguf", "user/repo@v1")
    if status:
        # The client gave up; the next attempt succeeds.
        assert "Traceback" not in error
        assert not (tmp_path / "out.gguf").exists()
        status, error = _convert(hub, tmp_path / "home", tmp_path / "out.gguf", "user/repo@v1")
    assert hub.broke
    assert status == 0, error


def test_an_unknown_revision_is_refused_with_a_sentence(hub: Hub, tmp_path: Path) -> None:
    status, error = _convert(hub, tmp_path / "home", tmp_path / "out.gguf", "user/repo@none")
    assert status == 1
    assert "user/repo: the repository has no revision none" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out.gguf").exists()
