"""The store against a package index on the loopback interface, with every kind of failure."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgellm.errors import DownloadError, EdgeLLMError, FileError, FormatError
from edgellm.store import catalog, hub, index
from edgellm.store.catalog import KnownModel, WheelMember, WheelSource, is_stored, read_catalog, stored_path
from edgellm.store.fetch import fetch
from edgellm.store.http import Client, shown
from edgellm.store.paths import downloads_folder
from edgellm.store.resolve import is_model_name, local_path, resolve

MODEL_BYTES = bytes(range(256)) * 4000


def wheel(member: str, content: bytes) -> bytes:
    """A wheel (a zip) that holds `content` at `member`, stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pkg/__init__.py", "")
        archive.writestr(member, content)
    return buffer.getvalue()


@dataclass
class Index:
    """A server's contents, its planned failures, and the requests that it got."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    html: bool = False
    hashes: bool = True
    ranges: bool = True
    drop_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def page(self, project: str) -> tuple[str, bytes]:
        rows = [name for name in self.files if index.normalize(name.split("-")[0]) == project]
        digests = {name: hashlib.sha256(self.files[name]).hexdigest() for name in rows}
        if self.html:
            marks = {name: f"#sha256={digests[name]}" if self.hashes else "" for name in rows}
            links = "".join(f'<a href="../../files/{name}{marks[name]}">{name}</a><br>' for name in rows)
            return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        files = [
            {
                "filename": name,
                "url": f"/files/{name}",
                "hashes": {"sha256": digests[name]} if self.hashes else {},
            }
            for name in rows
        ]
        return "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()


class Handler(BaseHTTPRequestHandler):
    served: Index

    def do_GET(self) -> None:
        served = self.served
        wanted = self.headers.get("Range")
        served.requests.append((self.path, wanted))
        parts = self.path.strip("/").split("/")
        if parts[0] == "simple" and len(parts) == 2 and served.page(parts[1])[1]:
            kind, body = served.page(parts[1])
            if not any(index.normalize(name.split("-")[0]) == parts[1] for name in served.files):
                self.send_error(404)
                return
            self._send(200, body, kind)
        elif parts[0] == "files" and parts[-1] in served.files:
            if served.statuses:
                self.send_error(served.statuses.pop(0))
                return
            self._send_file(served.files[parts[-1]], wanted)
        else:
            self.send_error(404)

    def _send_file(self, body: bytes, wanted: str | None) -> None:
        start = 0
        if wanted and self.served.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
        part = body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.served.drop_after:
            part = part[: self.served.drop_after.pop(0)]
            self.close_connection = True
        self.wfile.write(part)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    content = Index()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"served": content}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    content.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PIP_INDEX_URL", content.url + "/simple/")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr("edgellm.store.http.time.sleep", lambda seconds: None)
    yield content
    server.shutdown()
    server.server_close()
    thread.join()


def known(pieces: int = 1, content: bytes = MODEL_BYTES, **changes: object) -> KnownModel:
    wheels = tuple(WheelMember(f"my-model-{n}", "1.0", f"pkg/part{n}") for n in range(pieces))
    values: dict[str, object] = {
        "name": "my-model",
        "aliases": ("mine",),
        "description": "",
        "licence": "MIT",
        "family": "llama",
        "file": "my-model.gguf",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "memory": 1,
        "sources": (WheelSource(wheels),),
    }
    return KnownModel(**(values | changes))  # type: ignore[arg-type]


def serve_pieces(served: Index, pieces: int = 1, content: bytes = MODEL_BYTES) -> None:
    step = -(-len(content) // pieces)
    for n in range(pieces):
        body = wheel(f"pkg/part{n}", content[n * step : (n + 1) * step])
        served.files[f"my_model_{n}-1.0-py3-none-any.whl"] = body


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("html", [False, True])
@pytest.mark.parametrize("hashes", [False, True])
def test_fetch(served: Index, pieces: int, html: bool, hashes: bool) -> None:
    served.html, served.hashes = html, hashes
    serve_pieces(served, pieces)
    told: list[tuple[int, int | None]] = []
    path = fetch(known(pieces), lambda done, total: told.append((done, total)))
    assert path.read_bytes() == MODEL_BYTES
    assert path == stored_path(known())
    assert told[-1] == (len(MODEL_BYTES), len(MODEL_BYTES))
    assert told == sorted(told, key=lambda pair: pair[0])
    assert [p.name for p in downloads_folder().iterdir()] == ["my-model.lock"]


def test_a_stored_model_is_not_fetched_again(served: Index) -> None:
    serve_pieces(served)
    fetch(known())
    asked = len(served.requests)
    fetch(known())
    assert len(served.requests) == asked


def test_an_interrupted_download_goes_on(served: Index) -> None:
    serve_pieces(served)
    served.drop_after = [300_000, 200_000]
    assert fetch(known()).read_bytes() == MODEL_BYTES
    ranges = [wanted for path, wanted in served.requests if path.startswith("/files")]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_process_goes_on_where_one_was_killed(served: Index) -> None:
    serve_pieces(served)
    whole = served.files["my_model_0-1.0-py3-none-any.whl"]
    downloads_folder().mkdir(parents=True)
    (downloads_folder() / "my_model_0-1.0-py3-none-any.whl.part").write_bytes(whole[:1000])
    assert fetch(known()).read_bytes() == MODEL_BYTES
    assert ("/files/my_model_0-1.0-py3-none-any.whl", "bytes=1000-") in served.requests


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 10_000_000])
def test_a_wrong_beginning_is_thrown_away(served: Index, left: bytes) -> None:
    serve_pieces(served)
    downloads_folder().mkdir(parents=True)
    (downloads_folder() / "my_model_0-1.0-py3-none-any.whl.part").write_bytes(left)
    assert fetch(known()).read_bytes() == MODEL_BYTES


def test_a_server_without_ranges(served: Index) -> None:
    serve_pieces(served)
    served.ranges = False
    served.drop_after = [300_000]
    assert fetch(known()).read_bytes() == MODEL_BYTES


def test_a_server_that_is_busy_at_first(served: Index) -> None:
    serve_pieces(served)
    served.statuses = [503, 429, 500]
    assert fetch(known()).read_bytes() == MODEL_BYTES


def test_a_server_that_never_delivers(served: Index) -> None:
    serve_pieces(served)
    served.drop_after = [10] * 20
    with pytest.raises(DownloadError, match=r"ended early; 50 bytes are kept, run the same command again"):
        fetch(known())
    assert not is_stored(known())


def test_a_refusal_is_final(served: Index) -> None:
    serve_pieces(served)
    served.statuses = [403] * 20
    with pytest.raises(DownloadError, match=r"answers 403"):
        fetch(known())
    assert len(served.statuses) == 19


def test_other_content_than_the_catalog_says(served: Index) -> None:
    serve_pieces(served, content=MODEL_BYTES[::-1])
    with pytest.raises(DownloadError, match=r"has the SHA-256"):
        fetch(known())
    assert not stored_path(known()).exists()
    assert [p.name for p in downloads_folder().iterdir()] == ["my-model.lock"]


def test_other_content_than_the_index_says(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_pieces(served)
    name = "my_model_0-1.0-py3-none-any.whl"
    wrong = index.Wheel(name, f"{served.url}/files/{name}", "0" * 64)
    monkeypatch.setattr(index, "find_wheel", lambda package, version: wrong)
    with pytest.raises(DownloadError, match=r"does not have the SHA-256 that the package index gives"):
        fetch(known())


def test_a_wheel_without_the_file(served: Index) -> None:
    served.files["my_model_0-1.0-py3-none-any.whl"] = wheel("pkg/other", b"x")
    with pytest.raises(DownloadError, match=r"holds no file pkg/part0"):
        fetch(known())


def test_a_wheel_that_is_no_zip(served: Index) -> None:
    served.files["my_model_0-1.0-py3-none-any.whl"] = b"not a zip" * 100
    with pytest.raises(DownloadError, match=r"damaged"):
        fetch(known())


def test_what_the_index_does_not_have(served: Index) -> None:
    with pytest.raises(DownloadError, match=r"my-model-0 1.0 cannot be found: .*answers 404"):
        fetch(known())
    serve_pieces(served)
    served.files = {name.replace("1.0", "2.0"): body for name, body in served.files.items()}
    with pytest.raises(DownloadError, match=r"has no wheel of my-model-0 1.0"):
        fetch(known())


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DownloadError, match=r"no connection"):
        fetch(known())


def test_a_malformed_index(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_pieces(served)
    monkeypatch.setattr(Index, "page", lambda self, project: ("application/json", b'{"files": [{}]}'))
    with pytest.raises(DownloadError, match=r"malformed answer"):
        fetch(known())


def test_the_extra_index_is_asked_next(
    served: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tmp_path / "simple" / "my-model-0"
    project.mkdir(parents=True)
    (tmp_path / "my_model_0-1.0-py3-none-any.whl").write_bytes(wheel("pkg/part0", MODEL_BYTES))
    (project / "index.html").write_text('<a href="../../my_model_0-1.0-py3-none-any.whl">x</a>')
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "simple").as_uri())
    assert fetch(known()).read_bytes() == MODEL_BYTES


def _fetch_in_process(url: str, home: str) -> None:
    os.environ |= {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull, "EDGELLM_HOME": home}
    fetch(known())


def test_two_processes_fetch_once(served: Index) -> None:
    serve_pieces(served)
    context = multiprocessing.get_context("spawn")
    arguments = (served.url + "/simple", os.environ["EDGELLM_HOME"])
    processes = [context.Process(target=_fetch_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert stored_path(known()).read_bytes() == MODEL_BYTES
    assert sum(path.startswith("/files") for path, _ in served.requests) == 1


def test_too_little_space(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_pieces(served)
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("edgellm.store.fetch.shutil.disk_usage", lambda path: usage)
    with pytest.raises(FileError, match=r"needs 2.0 MB of disk and 1.0 MB are free"):
        fetch(known())


def test_a_full_disk_while_writing(served: Index, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    serve_pieces(served)
    full = tmp_path / "full.part"
    full.symlink_to("/dev/full")
    with pytest.raises(FileError, match=r"No space left on device .* run the same command again"):
        Client().download(served.url + "/files/my_model_0-1.0-py3-none-any.whl", full)


def test_a_store_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "file"))
    with pytest.raises(FileError, match=r"EDGELLM_HOME"):
        fetch(known())


def test_passwords_are_not_shown() -> None:
    assert shown("https://user:secret@host/simple?token=1") == "https://host/simple"


def test_credentials_in_the_url_are_sent_as_a_header(served: Index) -> None:
    serve_pieces(served)
    url = served.url.replace("http://", "http://user:p%40ss@") + "/simple/my-model-0/"
    assert Client().get(url, accept="*/*", limit=10_000).body


def test_pages_are_bounded(served: Index) -> None:
    serve_pieces(served)
    with pytest.raises(DownloadError, match=r"more than 10 bytes"):
        Client().get(served.url + "/simple/my-model-0/", accept="*/*", limit=10)


def test_other_schemes_are_refused() -> None:
    with pytest.raises(DownloadError, match=r"https, http and file only"):
        Client().get("ftp://127.0.0.1/x", accept="*/*", limit=10)


def test_pip_configuration_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a.example/simple/\nextra-index-url =\n  file:///b\n  file:///c\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    assert index.read_config().urls == ("https://a.example/simple", "file:///b", "file:///c")
    monkeypatch.setenv("PIP_INDEX_URL", "https://d.example/simple")
    assert index.read_config().urls[0] == "https://d.example/simple"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert index.read_config().urls == ()
    with pytest.raises(DownloadError, match=r"forbids"):
        index.find_wheel("x", "1")
    file.write_text("no section\n")
    with pytest.raises(DownloadError, match=r"not a readable pip configuration"):
        index.read_config()


def test_without_configuration_it_is_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert index.read_config().urls == ("https://pypi.org/simple",)


# The catalog.


def test_the_catalog_is_sound() -> None:
    models = catalog.known_models()
    assert catalog.default_model().name == "smollm2-135m-instruct"
    assert {"smollm2-135m-instruct", "gemma-3-270m"} <= {model.name for model in models}
    assert all(model.sources and model.memory > model.size for model in models)


ENTRY = """name = "a"
aliases = ["b"]
description = "d"
licence = "MIT"
family = "llama"
file = "a.gguf"
size = 1
sha256 = "{digest}"
memory = 2
{more}
[[sources]]
repo = "u/r"
file = "a.gguf"
revision = "c"
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("= 1", "not a TOML file"),
        (ENTRY.format(digest="0" * 63, more=""), "sha256 is"),
        (ENTRY.format(digest="0" * 64, more="colour = 1"), "unknown key colour"),
        (
            ENTRY.format(digest="0" * 64, more="").replace("size = 1", "size = 'x'"),
            "size is 'x', expected a int",
        ),
        (
            ENTRY.format(digest="0" * 64, more="").replace('file = "a.gguf"\nsize', 'file = "../a"\nsize'),
            "folders",
        ),
        (
            ENTRY.format(digest="0" * 64, more="").replace("revision", "version"),
            "unknown key sources.version",
        ),
        (ENTRY.format(digest="0" * 64, more="").replace('revision = "c"', ""), "sources.revision is missing"),
        (ENTRY.format(digest="0" * 64, more="").replace('["b"]', '["a"]'), "already that of"),
        ("name = 'a'", "is missing"),
    ],
)
def test_a_malformed_catalog(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(FormatError, match=says):
        read_catalog(tmp_path)


def test_two_defaults(tmp_path: Path) -> None:
    text = ENTRY.format(digest="0" * 64, more="default = true")
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text(text.replace('"a"', '"c"').replace('"b"', '"e"'))
    with pytest.raises(FormatError, match=r"more than one"):
        read_catalog(tmp_path)


# Names.


@pytest.fixture
def one_known(monkeypatch: pytest.MonkeyPatch) -> None:
    models = (known(default=True),)
    monkeypatch.setattr(catalog, "known_models", lambda: models)
    monkeypatch.setattr("edgellm.store.resolve.known_models", lambda: models)


@pytest.mark.usefixtures("one_known")
def test_names_resolve(served: Index, tmp_path: Path) -> None:
    serve_pieces(served)
    with pytest.raises(DownloadError, match=r"network is off.*`edgellm pull my-model`"):
        resolve("mine", offline=True)
    with pytest.raises(DownloadError, match=r"my-model is not on disk; `edgellm pull my-model` fetches it"):
        resolve(None, on_disk=True)
    assert local_path("mine") is None
    assert served.requests == []
    assert resolve("MINE") == resolve(None) == resolve("my-model", offline=True) == local_path("mine")
    file = tmp_path / "x.gguf"
    file.write_bytes(b"")
    assert resolve(str(file), offline=True) == resolve(file) == file


@pytest.mark.usefixtures("one_known")
def test_a_path_that_exists_wins_over_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_bytes(b"")
    assert resolve("mine") == Path("mine")


@pytest.mark.usefixtures("one_known")
def test_unknown_names_get_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"did you mean my-model"):
        resolve("my-modle")
    with pytest.raises(FileError, match=r"user/repo:QUANT fetches any GGUF file"):
        resolve("zzzzzzzz")
    with pytest.raises(FileError, match=r"empty"):
        resolve("")
    (tmp_path / "gemma.gguf").write_bytes(b"")
    with pytest.raises(FileError, match=r"did you mean .*gemma\.gguf"):
        resolve(str(tmp_path / "gema.gguf"))


@pytest.mark.parametrize("variable", ["EDGELLM_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_environment_forbids_the_network(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    for name in (None, "smollm2", "user/repo:Q4_0", "user/repo/file.gguf"):
        with pytest.raises(DownloadError, match=r"network is off"):
            resolve(name)


def test_what_looks_like_a_model(tmp_path: Path) -> None:
    assert is_model_name("x.gguf")
    assert is_model_name("smollm2")
    assert is_model_name(str(tmp_path))
    assert not is_model_name("Why is the sky blue?")
    assert not is_model_name("two\nlines.gguf")


def test_a_hub_source_of_the_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    file.write_bytes(MODEL_BYTES)
    monkeypatch.setattr(hub, "download", lambda repo, name, revision=None: file)
    model = known(sources=(catalog.HubSource("u/r", "file.gguf", "abc"),))
    assert fetch(model).read_bytes() == MODEL_BYTES
    wrong = known(name="wrong", sha256="0" * 64, sources=(catalog.HubSource("u/r", "file.gguf", "abc"),))
    with pytest.raises(EdgeLLMError, match=r"has the SHA-256"):
        fetch(wrong)
