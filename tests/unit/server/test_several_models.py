"""Models that are loaded when they are asked for, within a budget, and unloaded again."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgellm.commands.serve import models_in
from edgellm.engine.loading import memory_needed
from edgellm.errors import MemoryLimitError, OverloadedError
from edgellm.server.errors import RequestError
from edgellm.server.models import ModelManager
from tests.support.http_server import running
from tests.unit.server.conftest import OPTIONS

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": False}
SHORT = {"num_predict": 2}


@pytest.fixture
def size(tiny_model: Path) -> int:
    return memory_needed(tiny_model, OPTIONS, None)


def manager_of(tiny_model: Path, names: str, max_memory: int, **options: Any) -> ModelManager:
    models = [(name, tiny_model) for name in names]
    return ModelManager(models, replace(OPTIONS, max_memory=max_memory), **options)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def closing(manager: ModelManager, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    finally:
        await manager.close()
    assert manager.loaded == []


def names_of(manager: ModelManager) -> list[str]:
    return [loaded.name for loaded in manager.loaded]


def test_the_least_recently_used_makes_room(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "abc", 2 * size, on_demand=True)

    async def work() -> None:
        manager.start()
        assert manager.ready
        assert names_of(manager) == []
        for name in "aba":
            async with manager.use(name):
                pass
        assert names_of(manager) == ["a", "b"]
        async with manager.use("c"):
            assert names_of(manager) == ["a", "c"]
        assert (manager.n_loads, manager.n_unloads) == (3, 1)

    asyncio.run(closing(manager, work))


def test_at_the_start_as_many_are_loaded_as_fit(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "abc", 2 * size)

    async def work() -> None:
        manager.start()
        await manager.wait()
        assert names_of(manager) == ["a", "b"]
        async with manager.use("c"):
            assert names_of(manager) == ["b", "c"]

    asyncio.run(closing(manager, work))


def test_a_model_in_use_stays_and_others_wait_for_its_room(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "ab", size, on_demand=True)

    async def work() -> None:
        async def use_b() -> None:
            async with manager.use("b"):
                assert names_of(manager) == ["b"]

        async with manager.use("a"):
            waiting = asyncio.create_task(use_b())
            await until(lambda: manager.find("b").state == "loading")
            await asyncio.sleep(0)
            assert names_of(manager) == ["a"]
        await waiting

    asyncio.run(closing(manager, work))


def test_waiting_for_room_has_an_end(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "abc", 2 * size, on_demand=True, room_s=0.05)

    async def work() -> None:
        async with manager.use("a"), manager.use("b"):
            with pytest.raises(OverloadedError, match=r"c needs .* [kM]B; .* a, b is in use"):
                async with manager.use("c"):
                    pass
            assert names_of(manager) == ["a", "b"]

    asyncio.run(closing(manager, work))


def test_what_cannot_fit_is_refused_with_the_numbers(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "ab", size - 1, on_demand=True)

    async def work() -> None:
        with pytest.raises(RequestError, match=r"loading needs [\d.]+ [kM]B .* are allowed") as refused:
            async with manager.use("a"):
                pass
        assert (refused.value.status, refused.value.code) == (400, "model_too_large")

    asyncio.run(closing(manager, work))
    with pytest.raises(MemoryLimitError, match="available"):
        memory_needed(tiny_model, OPTIONS, size - 1)
    assert memory_needed(tiny_model, OPTIONS, size) == size


def test_without_a_budget_what_the_machine_has_counts(
    tiny_model: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Available memory plus the process's own; its models may not have touched all of theirs."""
    available = size
    monkeypatch.setattr("edgellm.engine.loading.available_memory", lambda: available)
    monkeypatch.setattr("edgellm.engine.loading.own_memory", lambda: size // 2)
    manager = ModelManager([("a", tiny_model), ("b", tiny_model)], OPTIONS, on_demand=True, room_s=0.05)

    async def work() -> None:
        nonlocal available
        async with manager.use("a"):
            pass
        async with manager.use("b"):
            assert names_of(manager) == ["b"]
        available = size // 4
        with pytest.raises(MemoryLimitError) as refused:
            async with manager.use("a"):
                pass
        assert refused.value.http_status == 503  # other programs may end

    asyncio.run(closing(manager, work))


def test_idle_models_are_unloaded_and_used_ones_are_not(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "ab", 2 * size, on_demand=True, idle_s=0.02)

    async def work() -> None:
        async with manager.use("a"):
            async with manager.use("b"):
                pass
            await until(lambda: names_of(manager) == ["a"])
        async with manager.use("b", math.inf):
            pass
        await until(lambda: names_of(manager) == ["b"])
        async with manager.use("b", 0.0):
            pass
        await until(lambda: names_of(manager) == [])

    asyncio.run(closing(manager, work))


def test_only_so_many_wait_for_a_load(tiny_model: Path) -> None:
    manager = ModelManager([("a", tiny_model)], OPTIONS, on_demand=True)

    async def work() -> None:
        async def use() -> None:
            async with manager.use("a"):
                pass

        asked = [asyncio.create_task(use()) for _ in range(OPTIONS.max_waiting + 1)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [result for result in results if result is not None] == [results[-1]]
        assert isinstance(results[-1], OverloadedError)

    asyncio.run(closing(manager, work))


def test_closing_ends_a_wait_for_room(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "ab", size, on_demand=True)

    async def ask() -> None:
        async with manager.use("a"):

            async def use_b() -> None:
                async with manager.use("b"):
                    pass

            waiting = asyncio.create_task(use_b())
            await until(lambda: manager.find("b").state == "loading")
            closed = asyncio.create_task(manager.close())
            with pytest.raises(OverloadedError, match="stopping"):
                await waiting
            await closed
        assert manager.loaded == []

    asyncio.run(ask())


def test_keep_alive_over_http(tiny_model: Path, size: int) -> None:
    manager = manager_of(tiny_model, "ab", size, on_demand=True)

    def states(client: httpx.Client) -> dict[str, str]:
        return {m["id"]: m["status"]["value"] for m in client.get("/v1/models").json()["data"]}

    with running([], OPTIONS, manager=manager) as server, server.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/api/ps").json() == {"models": []}
        assert [model["name"] for model in client.get("/api/tags").json()["models"]] == ["a", "b"]
        foreseen = client.get("/props", params={"model": "a"}).json()
        assert foreseen["state"] == "unloaded"
        assert states(client) == {"a": "unloaded", "b": "unloaded"}

        answer = client.post("/api/chat", json={"model": "a", **CHAT, "options": SHORT}).json()
        assert answer["load_duration"] > 0
        assert answer["total_duration"] > answer["load_duration"]
        (listed,) = client.get("/api/ps").json()["models"]
        assert (listed["name"], listed["size"]) == ("a", size)
        assert client.get("/props", params={"model": "a"}).json() == {**foreseen, "state": "loaded"}
        assert listed["expires_at"].startswith("9999")
        assert states(client) == {"a": "loaded", "b": "unloaded"}

        assert (
            client.post("/api/generate", json={"model": "b", "keep_alive": "5m"}).json()["done_reason"]
            == "load"
        )
        assert states(client) == {"a": "unloaded", "b": "loaded"}
        (listed,) = client.get("/api/ps").json()["models"]
        assert not listed["expires_at"].startswith("9999")
        text = client.get("/metrics").text
        assert "edgellm_model_loads_total 2\n" in text
        assert "edgellm_model_unloads_total 1\n" in text
        assert f'edgellm_model_memory_bytes{{model="b"}} {size}\n' in text

        body = {"model": "b", "messages": [], "keep_alive": 0}
        assert client.post("/api/chat", json=body).json()["done_reason"] == "unload"
        assert client.post("/api/chat", json={**body, "model": "a"}).json()["done_reason"] == "unload"
        while manager.n_unloads < 2:
            client.get("/health")
        assert client.get("/api/ps").json()["models"] == []

        embedded = client.post("/api/embed", json={"model": "a", "input": [], "keep_alive": -1}).json()
        assert (embedded["embeddings"], embedded["done_reason"]) == ([], "load")
        body = {"model": "a", "input": "x", "keep_alive": "0s"}
        assert client.post("/api/embed", json=body).json()["load_duration"] >= 0
        while client.get("/api/ps").json()["models"]:
            pass

        refused = client.post("/api/chat", json={"model": "a", **CHAT, "keep_alive": "5 minutes"})
        assert refused.status_code == 400
        assert "keep_alive" in refused.json()["error"]
        assert client.post("/api/chat", json={"model": "user/repo:Q4_K_M", **CHAT}).status_code == 404


def test_another_model_streams_on_while_one_is_loaded(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load of b ends only after a has sent further tokens."""
    proceed = threading.Event()
    load = ModelManager._load_model

    def slow(self: ModelManager, source: Any) -> Any:
        if source.name == "b":
            assert proceed.wait(60)
        return load(self, source)

    monkeypatch.setattr(ModelManager, "_load_model", slow)
    manager = ModelManager([("a", tiny_model), ("b", tiny_model)], OPTIONS, on_demand=True)
    with running([], OPTIONS, manager=manager) as server, server.client() as client:
        answers: list[httpx.Response] = []

        def ask_b() -> None:
            with server.client() as other:
                answers.append(other.post("/api/chat", json={"model": "b", **CHAT, "options": SHORT}))

        body = {"model": "a", "prompt": "x", "max_tokens": 20, "stream": True, "ignore_eos": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            asking = threading.Thread(target=ask_b)
            asking.start()
            with server.client() as watching:
                while watching.get("/v1/models/b").json()["status"]["value"] != "loading":
                    pass
                assert watching.get("/health").status_code == 200
            assert list(lines)[-2] == "data: [DONE]"
        proceed.set()
        asking.join()
        assert answers[0].status_code == 200


def test_files_that_appear_in_a_folder_are_served(tiny_model: Path, tmp_path: Path) -> None:
    def put(name: str, age_s: float) -> Path:
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(tiny_model.read_bytes())
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    def listed(client: httpx.Client) -> list[str]:
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert [model["name"] for model in client.get("/api/tags").json()["models"]] == names
        return names

    put("a", 60)
    manager = ModelManager(models_in(tmp_path), OPTIONS, on_demand=True, look=lambda: models_in(tmp_path))
    with running([], OPTIONS, manager=manager) as server, server.client() as client:
        assert listed(client) == ["a"]
        put("b", 60)
        asked = {"model": "b", **CHAT, "options": SHORT}
        assert client.post("/api/chat", json=asked).status_code == 200
        copied = put("c", -3600)  # as if it had just changed, however slow this test is
        assert listed(client) == ["a", "b"]
        assert client.post("/api/chat", json={**asked, "model": "c"}).status_code == 404
        os.utime(copied, (0, 0))
        assert listed(client) == ["a", "b", "c"]
        assert client.post("/api/chat", json={**asked, "model": "c"}).status_code == 200


def test_models_whose_files_are_gone_are_not_listed(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").write_bytes(tiny_model.read_bytes())
    manager = ModelManager(models_in(tmp_path), OPTIONS, on_demand=True, look=lambda: models_in(tmp_path))
    with running([], OPTIONS, manager=manager) as server, server.client() as client:

        def listed() -> list[str]:
            return [model["id"] for model in client.get("/v1/models").json()["data"]]

        def ask(name: str) -> int:
            return client.post("/api/chat", json={"model": name, **CHAT, "options": SHORT}).status_code

        assert ask("b") == 200
        for path in tmp_path.iterdir():
            path.unlink()
        assert (ask("a"), ask("b")) == (404, 200)
        assert listed() == ["b"]  # it is in memory
        assert client.post("/api/generate", json={"model": "b", "keep_alive": 0}).status_code == 200
        while listed():
            time.sleep(0.01)
        response = client.post("/v1/chat/completions", json={"model": "b", **CHAT})
        assert response.status_code == 404
        assert "the models are none" in response.json()["error"]["message"]
