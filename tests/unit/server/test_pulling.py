"""Models that clients have fetched and deleted, where the owner allows it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgellm.commands.sources import puller
from edgellm.errors import DownloadError, FileError, UsageError
from edgellm.server.puller import Puller, Report
from edgellm.server.settings import ServerSettings
from edgellm.store import hub
from edgellm.store.catalog import default_model
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model
from tests.unit.server.conftest import OPTIONS

NAME = "user/small:Q8_0"


class _Hub:
    """A place that has one model; what is fetched lies in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "fetched.gguf"

    def fetch(self, name: str, report: Report) -> Path:
        if name != NAME:
            raise DownloadError(f"{name} is not there.")
        for done in (1, 2):
            report(done, 2)
            time.sleep(0.6)
        return write_tiny_model(self.file)

    def remove(self, name: str) -> int:
        if not self.file.exists():
            raise FileError(f"{name} is not on disk.")
        self.file.unlink()
        return 1


@pytest.fixture
def place(tmp_path: Path) -> _Hub:
    return _Hub(tmp_path)


@pytest.fixture
def pulls(place: _Hub, tmp_path: Path) -> Iterator[Running]:
    allowed = puller(["user/*"]).allowed
    settings = ServerSettings(port=0, puller=Puller(("user/*",), allowed, place.fetch, place.remove))
    with running([("own", write_tiny_model(tmp_path / "own.gguf"))], OPTIONS, settings) as started:
        yield started


def test_a_model_is_fetched_served_and_deleted(pulls: Running, place: _Hub) -> None:
    with pulls.client() as client:
        lines = [
            json.loads(line) for line in client.post("/api/pull", json={"model": NAME}).text.splitlines()
        ]
        assert lines[0] == {"status": "pulling manifest"}
        assert {"status": f"pulling {NAME}", "total": 2, "completed": 1} in lines
        assert lines[-1] == {"status": "success"}
        asked = {"model": NAME, "messages": [{"role": "user", "content": "once"}], "stream": False}
        asked["options"] = {"num_predict": 2}
        assert client.post("/api/chat", json=asked).status_code == 200
        again = client.post("/api/pull", json={"name": f"{NAME}", "stream": False})
        assert again.json() == {"status": "success"}
        assert [model["name"] for model in client.get("/api/tags").json()["models"]] == ["own", NAME]
        assert client.request("DELETE", "/api/delete", json={"model": NAME}).status_code == 200
        assert not place.file.exists()
        assert client.post("/api/chat", json=asked).status_code == 404
        assert client.request("DELETE", "/api/delete", json={"model": NAME}).status_code == 404


def test_ollama_s_client_fetches_and_deletes(pulls: Running) -> None:
    ollama: Any = pytest.importorskip("ollama")
    client = ollama.Client(pulls.url, timeout=60)
    stages = list(client.pull(NAME, stream=True))
    assert [stages[0].status, stages[-1].status] == ["pulling manifest", "success"]
    assert any(stage.total == 2 for stage in stages)
    assert client.pull(NAME).status == "success"
    assert client.delete(NAME).status == "success"
    with pytest.raises(ollama.ResponseError, match="takes models from"):
        client.pull("other/model")
    with pytest.raises(ollama.ResponseError, match="is not there"):
        list(client.pull("user/none", stream=True))


def test_failures_are_said(pulls: Running) -> None:
    with pulls.client() as client:
        streamed = client.post("/api/pull", json={"model": "user/none"})
        assert json.loads(streamed.text.splitlines()[-1]) == {"error": "user/none is not there."}
        whole = client.post("/api/pull", json={"model": "user/none", "stream": False})
        assert whole.status_code == 502
        assert whole.json() == {"error": "user/none is not there."}


@pytest.mark.parametrize(
    "name", ["other/small", "own", "", "/etc/passwd", "user/../x", "smollm2", "user/x/y"]
)
def test_other_names_are_refused(pulls: Running, name: str) -> None:
    with pulls.client() as client:
        for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
            response = client.request(method, path, json={"model": name})
            assert response.status_code == 403, name
            assert "user/*" in response.json()["error"]


def test_without_leave_nothing_is_fetched_or_deleted(client: httpx.Client) -> None:
    for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
        response = client.request(method, path, json={"model": "tiny"})
        assert response.status_code == 403
        assert "--allow-pull" in response.json()["error"]


def test_a_model_in_use_is_not_deleted(pulls: Running) -> None:
    with pulls.client() as client:
        client.post("/api/pull", json={"model": NAME, "stream": False})
        client.post("/api/generate", json={"model": NAME})
        loaded = pulls.service.models.find(NAME).loaded
        assert loaded is not None
        loaded.n_users += 1
        assert client.request("DELETE", "/api/delete", json={"model": NAME}).status_code == 409
        loaded.n_users -= 1
        assert pulls.service.models.find(NAME).loaded is loaded


def test_sources_are_the_catalog_and_patterns_of_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    both = puller(["catalog", "user/gguf-*"])
    known = default_model().name
    names = [known, "user/gguf-a:Q4_0", "hf.co/user/gguf-a", "user/other", "x/user", "nobody"]
    assert [both.allowed(name) for name in names] == [True, True, True, False, False, False]
    assert not puller(["user/*"]).allowed(known)
    asked: list[hub.HubName] = []

    def fetch(name: hub.HubName) -> Path:
        asked.append(name)
        return Path("x")

    monkeypatch.setattr(hub, "cached", lambda name: None)
    monkeypatch.setattr(hub, "fetch", fetch)
    assert both.fetch("user/gguf-a:Q4_0", lambda done, total: None) == Path("x")
    assert asked == [hub.HubName("user/gguf-a", None, "Q4_0")]
    for wrong in ("*", "user", "https://example.org/x", "user/repo:Q4_0", ""):
        with pytest.raises(UsageError, match="--allow-pull"):
            puller([wrong])
