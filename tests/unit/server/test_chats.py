"""Conversations that a server keeps for the page."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgellm.errors import UsageError
from edgellm.server import chat_folder as chat_folders
from edgellm.server.chat_folder import chat_folder
from edgellm.server.settings import ServerSettings
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model
from tests.unit.server.conftest import OPTIONS

CHAT: dict[str, Any] = {
    "id": "abc",
    "title": "about foxes",
    "changed": 5,
    "messages": [{"role": "user", "content": "ü", "versions": [None]}],
    "dropped": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "chats"


@pytest.fixture(scope="module")
def keeping(folder: Path) -> Iterator[httpx.Client]:
    model = write_tiny_model(folder.parent / "tiny.gguf")
    settings = ServerSettings(port=0, chats=chat_folder(folder))
    with running([("tiny", model)], OPTIONS, settings) as server, server.client() as client:
        yield client


def test_a_conversation_is_kept_listed_and_deleted(keeping: httpx.Client, folder: Path) -> None:
    assert keeping.get("/props").json()["keeps_chats"] is True
    assert keeping.put("/v1/chats/abc", json=CHAT).json() == {"id": "abc", "changed": 5}
    assert keeping.get("/v1/chats/abc").json() == CHAT
    assert keeping.get("/v1/chats").json()["data"] == [{"id": "abc", "changed": 5}]
    assert stat.S_IMODE((folder / "abc.json").stat().st_mode) == 0o600
    assert keeping.put("/v1/chats/abc", json={**CHAT, "changed": 4}).status_code == 409
    assert keeping.put("/v1/chats/abc", json={**CHAT, "changed": 6, "title": "b"}).status_code == 200
    assert keeping.delete("/v1/chats/abc", params={"changed": 5}).status_code == 409
    assert keeping.delete("/v1/chats/abc", params={"changed": 7}).status_code == 200
    assert keeping.get("/v1/chats").json()["data"] == [{"id": "abc", "changed": 7, "deleted": True}]
    assert keeping.get("/v1/chats/abc").status_code == 404
    assert "foxes" not in (folder / "abc.json").read_text()
    assert [path.name for path in folder.iterdir()] == ["abc.json"]


@pytest.mark.parametrize("name", ["..%2fx", "%2e%2e", "a.b", "a" * 65, "a%00b", "ü"])
def test_ids_name_no_other_files(keeping: httpx.Client, folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    assert keeping.put(f"/v1/chats/{name}", json=CHAT).status_code in (400, 404, 405)
    assert keeping.get(f"/v1/chats/{name}").status_code == 404
    assert sorted(folder.parent.rglob("*")) == before


def test_there_are_limits(keeping: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_folders, "MAX_CHAT_BYTES", 1000)
    assert keeping.put("/v1/chats/long", json={**CHAT, "title": "x" * 1000}).status_code == 413
    monkeypatch.setattr(chat_folders, "MAX_CHATS", 0)
    assert keeping.put("/v1/chats/new", json=CHAT).status_code == 413


def test_files_of_others_are_left_alone(keeping: httpx.Client, folder: Path) -> None:
    for name, text in (("broken", "{"), ("other", json.dumps([1])), ("half", json.dumps({"id": "half"}))):
        (folder / f"{name}.json").write_text(text)
    listed = keeping.get("/v1/chats").json()["data"]
    assert not {"broken", "other", "half"} & {one["id"] for one in listed}


def test_without_leave_nothing_is_kept(client: httpx.Client) -> None:
    assert client.get("/props").json()["keeps_chats"] is False
    for method in ("GET", "PUT"):
        refused = client.request(method, "/v1/chats/abc", json=CHAT)
        assert refused.status_code == 404
        assert "--keep-chats" in refused.json()["error"]["message"]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be kept there"):
        chat_folder(tmp_path / "file")
