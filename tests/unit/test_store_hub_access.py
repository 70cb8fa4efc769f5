"""The Hub refuses, is not there, or is another: each is one sentence, and comes at once."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edgellm.errors import DownloadError
from edgellm.store import hub, hub_access
from edgellm.store.hub_access import explained, list_files

Answer = tuple[int, dict[str, str], bytes]


class Hub(ThreadingHTTPServer):
    """Gives one answer to every request, and notes the requests' headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = (200, {}, b"{}")
        self.asked: list[tuple[str, str | None]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_address[1]}")
        yield running
        running.shutdown()
        thread.join()


def test_files_are_listed_with_the_users_token(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = (200, {}, json.dumps({"siblings": [{"rfilename": "a.gguf"}]}).encode())
    assert list_files("u/r") == ["a.gguf"]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert list_files("u/r", "v1/x") == ["a.gguf"]
    assert server.asked == [
        ("/api/models/u/r", None),
        ("/api/models/u/r/revision/v1%2Fx", "Bearer hf_secret"),
    ]


def test_a_stored_token_is_found(tmp_path: Any) -> None:
    assert hub_access.token() is None
    (tmp_path / "token").write_text("hf_stored\n")
    assert hub_access.token() == "hf_stored"


@pytest.mark.parametrize(
    ("status", "headers", "sentence"),
    [
        (401, {}, r"no such repository, or it is private \(give a token"),
        (
            401,
            {"X-Error-Code": "GatedRepo"},
            r"gated: accept its terms on http://127.*/u/r, then give a token",
        ),
        (403, {"X-Error-Code": "GatedRepo"}, r"gated: accept its terms on http://127"),
        (403, {"X-Error-Message": "no\x1b[2Jentry"}, "forbids it"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision v9"),
        (404, {}, "no such repository"),
        (407, {}, "proxy wants a password"),
        (429, {"Retry-After": "17"}, "too many requests .* in 17 s"),
        (429, {}, "too many requests .* in some minutes"),
        (500, {}, r"out of order \(500\)"),
        (503, {}, r"out of order \(503\)"),
        (418, {}, "answers 418"),
    ],
)
def test_a_refusal_is_one_sentence(server: Hub, status: int, headers: dict[str, str], sentence: str) -> None:
    server.answer = (status, headers, b"<html>long\npage</html>")
    with pytest.raises(DownloadError, match=sentence) as caught:
        hub.fetch(hub.HubName("u/r", None, "Q4_K_M")) if "v9" not in sentence else list_files("u/r", "v9")
    message = str(caught.value)
    assert message.startswith("u/r: ")
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"<html>Log in to this network</html>"),
        ({}, b"[]"),
        ({}, b'{"siblings": 3}'),
        ({}, b'{"siblings": [{"rfilename": 3}]}'),
        ({}, b"\xff\xfe"),
    ],
)
def test_what_is_not_the_hub_is_named_so(server: Hub, headers: dict[str, str], body: bytes) -> None:
    server.answer = (200, headers, body)
    with pytest.raises(DownloadError, match="does not answer as the Hub does"):
        list_files("u/r")


def test_a_body_that_ends_early(server: Hub) -> None:
    server.answer = (200, {"Content-Length": "100"}, b'{"siblings": ')
    with pytest.raises(DownloadError, match="ended early"):
        list_files("u/r")


def test_no_connection_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(
            DownloadError, match=r"^u/r: no connection to 127\.0\.0\.1 \(Connection refused\)"
        ):
            hub.fetch(hub.HubName("u/r", None, None))


def test_a_name_that_cannot_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match=r"no network: the name hub\.invalid cannot be looked up"):
        list_files("u/r")


def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_access, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DownloadError, match="does not answer in time"):
            list_files("u/r")


def _made(name: str, text: str, cause: BaseException | None = None, **members: object) -> Exception:
    """An error of a library that need not be installed: only its class's name and members count."""
    error: Exception = type(name, (Exception,), members)(text)
    error.__cause__ = cause
    return error


class _Response:
    def __init__(self, status: int, **headers: str) -> None:
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            _made("ConnectError", "[Errno 111] Connection refused", ConnectionRefusedError(111, "refused")),
            "no conn",
        ),
        (_made("ConnectError", "[Errno -3] Temporary failure in name resolution"), "cannot be looked up"),
        (_made("ConnectError", "[Errno -2] Name or service not known"), "cannot be looked up"),
        (
            _made(
                "ConnectionError", "HTTPSConnectionPool: Max retries", socket.gaierror(-2, "Name not known")
            ),
            "cannot be looked up",
        ),
        (_made("ConnectError", "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), "not trusted"),
        (urllib.error.URLError(ssl.SSLCertVerificationError("certificate has expired")), "not trusted"),
        (_made("ProxyError", "403 Forbidden"), "proxy gives no connection"),
        (OSError("Tunnel connection failed: 407 Proxy Authentication Required"), "proxy gives no connection"),
        (_made("ReadTimeout", "The read operation timed out"), "in time"),
        (_made("RemoteProtocolError", "peer closed connection without sending complete body"), "ended early"),
        (_made("ChunkedEncodingError", "Connection broken"), "ended early"),
        (
            OSError("Consistency check failed: file should be of size 5 but has size 3"),
            "not what the Hub announced",
        ),
        (OSError(28, "No space left on device"), "disk of the Hub's cache is full"),
        (PermissionError(13, "Permission denied", "/x"), "cache cannot be written"),
        (_made("OfflineModeIsEnabled", "offline"), "forbids the network"),
        (_made("GatedRepoError", "x", response=_Response(403)), "is gated"),
        (_made("HfHubHTTPError", "x", response=_Response(404, X_Error_Code="EntryNotFound")), "no such file"),
        (
            _made(
                "LocalEntryNotFoundError",
                "cannot find",
                _made("HTTPStatusError", "x", response=_Response(503)),
            ),
            r"out of order \(503\)",
        ),
        (_made("XetDownloadError", "CAS\nerror"), r"cannot be fetched from the Hub \(CAS\)"),
        (_made("Strange", ""), r"cannot be fetched from the Hub \(Strange\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_every_library_are_one_sentence(error: Exception, sentence: str) -> None:
    message = str(explained(error, "u/r"))
    assert message.startswith("u/r: ")
    assert re.search(sentence, message), message
    assert "\n" not in message


def test_a_download_that_fails_is_a_download_error(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def fail(*args: object, **options: object) -> str:
        raise _made("ConnectError", "[Errno 104] Connection reset by peer")

    server.answer = (200, {}, json.dumps({"siblings": [{"rfilename": "a-Q4_K_M.gguf"}]}).encode())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DownloadError, match=r"^u/r/a-Q4_K_M\.gguf: no connection"):
        hub.fetch(hub.HubName("u/r", None, "Q4_K_M"))
    with pytest.raises(DownloadError, match=r"^u/r: no connection"):
        hub.download_folder("u/r", ["*.json"])


def test_a_checkpoint_of_the_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: list[bool] = []

    def local(repo: str, *, local_files_only: bool, **options: object) -> str:
        asked.append(local_files_only)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", local)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.download_folder("u/r", ["*.json"]) == tmp_path
    assert asked == [True]
