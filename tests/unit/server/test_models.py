"""Several models behind one server, and those that cannot be loaded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.commands.serve import check_draft
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import UnsupportedError, UsageError
from edgellm.server.errors import RequestError
from edgellm.server.models import ModelManager
from edgellm.server.run import listen
from edgellm.server.served import Loaded
from edgellm.server.settings import ServerSettings
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import small_bpe
from tests.unit.server.conftest import OPTIONS


def test_models_are_told_apart_by_name(tiny_model: Path) -> None:
    models = [("a", tiny_model), ("b", tiny_model), ("a", tiny_model)]
    with running(models, OPTIONS) as server, server.client() as client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["a", "b", "a-2"]
        for name, expected in (("b", "b"), ("a-2", "a-2"), ("a:latest", "a")):
            body = {"model": name, "prompt": "x", "max_tokens": 1}
            assert client.post("/v1/completions", json=body).json()["model"] == expected
        refused = client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_a_draft_model_is_for_the_models_of_its_vocabulary(tmp_path: Path) -> None:
    fits = write_tiny_model(tmp_path / "fits.gguf")
    draft = write_tiny_model(tmp_path / "draft.gguf", **{"llama.rope.freq_base": 50.0})
    tokens = list(small_bpe()["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[5] = "five"
    other = write_tiny_model(tmp_path / "other.gguf", **{"tokenizer.ggml.tokens": tokens})
    models = [("fits", fits), ("other", other), ("draft", draft)]
    with (
        running(models, replace(OPTIONS, backend="native", draft=draft)) as server,
        server.client() as client,
    ):
        drafted = {}
        for name in ("fits", "other", "draft"):
            body = {
                "model": name,
                "prompt": "one two",
                "max_tokens": 20,
                "temperature": 0,
            }
            answer = client.post("/v1/completions", json=body).json()
            drafted[name] = answer["timings"]["draft_n"]
            assert 0 <= answer["timings"]["draft_n_accepted"] <= drafted[name]
            memory = client.get("/props", params={"model": name}).json()["memory_bytes"]
            assert ("draft" in memory) == (name == "fits")
        assert drafted["fits"] > 0
        counts = client.get("/metrics").text
        assert f"edgellm_tokens_drafted_total {sum(drafted.values())}" in counts
    check_draft([other, fits], draft)
    with pytest.raises(UsageError, match="cannot be the draft model of any of the models"):
        check_draft([other], draft)


def test_requests_for_a_model_that_is_being_loaded_wait_for_one_load(tiny_model: Path) -> None:
    async def ask() -> None:
        manager = ModelManager([("a", tiny_model), ("b", tiny_model)], OPTIONS)
        manager.start()
        ready_at_once = manager.ready
        assert not ready_at_once

        async def use() -> Loaded:
            async with manager.use("a") as served:
                assert served.loaded.n_users >= 1
                return served.loaded

        found = await asyncio.gather(*(use() for _ in range(8)))
        assert len(set(map(id, found))) == 1
        await manager.wait()
        assert manager.ready
        assert manager.n_loads == 2
        assert [loaded.n_users for loaded in manager.loaded] == [0, 0]
        with pytest.raises(RequestError, match="no model 'c'"):
            manager.find("c")
        await manager.close()
        assert manager.loaded == []

    asyncio.run(ask())


def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, tiny_model: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 100)

    async def ask() -> None:
        manager = ModelManager([("good", tiny_model), ("bad", bad)], OPTIONS)
        manager.start()
        with pytest.raises(UnsupportedError, match=r"bad\.gguf"):
            await manager.wait()
        for _ in range(2):
            with pytest.raises(UnsupportedError):
                async with manager.use("bad"):
                    pass
        async with manager.use("good"):
            pass
        bad.write_bytes(tiny_model.read_bytes())  # once it has been repaired, it serves
        async with manager.use("bad"):
            pass
        await manager.close()

    asyncio.run(ask())


def test_an_address_that_is_taken_is_an_error_with_advice() -> None:
    taken = listen(ServerSettings(port=0))
    with pytest.raises(UsageError, match="--port"):
        listen(ServerSettings(port=taken.getsockname()[1]))
    taken.close()


def test_requests_end_when_the_server_does(tiny_model: Path) -> None:
    options = LoadOptions(backend="interpreter", context=512)
    with running([("a", tiny_model)], options) as server, server.client() as client:
        body = {"prompt": "x", "max_tokens": 2, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            assert "data: [DONE]" in response.read().decode()
    assert server.service.models.loaded == []
