"""Adapters by request, by field and by name, in one batch, without an effect on other answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import edgellm
from edgellm.engine.adapters import AdapterFile
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import UsageError
from edgellm.server.models import ModelManager
from tests.support.http_server import Running, running
from tests.support.references import adapter_folder
from tests.unit.engine.test_adapters import write_adapter

pytest.importorskip("edgellm._native", reason="needs the built extension module")

PROMPT = list(range(40, 100))
QUERIES: dict[str, tuple[int, ...]] = {
    f"blk.{layer}.attn_q.weight.{half}": shape
    for layer in (0, 1)
    for half, shape in (("lora_a", (4, 64)), ("lora_b", (64, 4)))
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterFile, ...]:
    """Three adapters: one in use, one not in use by default, one in PEFT's form."""
    folder = tmp_path_factory.mktemp("adapters")
    pirate = write_adapter(folder / "pirate.gguf", QUERIES, seed=1)
    formal = write_adapter(folder / "formal.gguf", QUERIES, seed=2)
    return AdapterFile(pirate, 0.5), AdapterFile(formal, 0.0), AdapterFile(adapter_folder("llama"), 0.0)


@pytest.fixture(scope="module")
def options(files: tuple[AdapterFile, ...]) -> LoadOptions:
    return LoadOptions(context=192, cache_tokens=4096, parallel=8, max_waiting=64, threads=2, lora=files)


@pytest.fixture(scope="module")
def server(tiny_model: Path, options: LoadOptions) -> Iterator[Running]:
    with running([("tiny", tiny_model)], options) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def complete(client: httpx.Client, **more: Any) -> dict[str, Any]:
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True, **more}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


def text_of(content: dict[str, Any]) -> str:
    return str(content["choices"][0]["text"])


CHOICES: list[dict[str, Any]] = [
    {},
    {"lora": []},
    {"lora": [{"id": 0, "scale": 0.5}]},
    {"lora": [{"id": "formal"}]},
    {"lora": [{"id": 0, "scale": 1.0}, {"id": 1, "scale": -1.0}]},
    {"model": "formal"},
    {"model": "lora:latest"},
    {"model": "formal", "lora": [{"id": "lora", "scale": 1.0}]},
]


def test_the_choice_of_a_request_is_that_of_the_python_api(
    client: httpx.Client, tiny_model: Path, options: LoadOptions
) -> None:
    wanted: list[dict[str | int, float]] = [
        {"pirate": 0.5},
        {},
        {"pirate": 0.5},
        {"formal": 1.0},
        {"pirate": 1.0, "formal": -1.0},
        {"formal": 1.0},
        {"lora": 1.0},
        {"lora": 1.0},
    ]
    names = ["tiny"] * 5 + ["formal", "lora", "formal"]
    with edgellm.load(tiny_model, context=192, threads=2, lora=list(options.lora)) as model:
        for choice, lora, name in zip(CHOICES, wanted, names, strict=True):
            generation = model.generate(
                PROMPT, edgellm.GenerateOptions(max_tokens=12, temperature=0, ignore_eos=True, lora=lora)
            )
            list(generation)
            answer = complete(client, **choice)
            assert text_of(answer) == generation.text
            assert answer["model"] == name
    assert len({text_of(complete(client, **choice)) for choice in CHOICES}) == 5


def test_answers_in_one_batch_are_those_of_requests_alone(tiny_model: Path, options: LoadOptions) -> None:
    requests = [
        {**choice, "seed": i, "temperature": 0.0 if i % 2 else 1.0} for i, choice in enumerate(CHOICES * 3)
    ]
    with running([("tiny", tiny_model)], options) as server, server.client() as client:
        alone = [text_of(complete(client, **request)) for request in requests]
    with (
        running([("tiny", tiny_model)], options) as server,
        server.client() as client,
        ThreadPoolExecutor(len(requests)) as pool,
    ):
        together = list(pool.map(lambda request: text_of(complete(client, **request)), requests))
    assert together == alone


def test_a_cached_prompt_serves_only_the_same_adapters(client: httpx.Client) -> None:
    prompt = [7, *PROMPT]
    seen = []
    for lora in ([], [{"id": 1}], [{"id": 1, "scale": 0.9}], [{"id": 0}], [{"id": 1}], []):
        seen.append(complete(client, prompt=prompt, lora=lora)["timings"]["cache_n"])
    assert seen == [0, 0, 0, 0, len(prompt) - 1, len(prompt) - 1]


def test_they_are_listed(client: httpx.Client) -> None:
    assert client.get("/lora-adapters").json() == [
        {"id": 0, "name": "pirate", "path": "pirate.gguf", "scale": 0.5},
        {"id": 1, "name": "formal", "path": "formal.gguf", "scale": 0.0},
        {"id": 2, "name": "lora", "path": "lora", "scale": 0.0},
    ]
    # No client can change the adapters of others.
    assert client.post("/lora-adapters", json=[{"id": 0, "scale": 0.0}]).status_code == 405
    listed = client.get("/v1/models").json()["data"]
    found = [(model["id"], model.get("parent")) for model in listed]
    assert found == [("tiny", None), ("pirate", "tiny"), ("formal", "tiny"), ("lora", "tiny")]
    assert client.get("/v1/models/formal").json()["parent"] == "tiny"
    assert "parent" not in client.get("/v1/models/tiny").json()
    tags = client.get("/api/tags").json()["models"]
    parents = [(model["name"], model["details"]["parent_model"]) for model in tags]
    assert parents == [("tiny", ""), ("pirate", "tiny"), ("formal", "tiny"), ("lora", "tiny")]


def test_every_dialect_takes_an_adapter_by_name(client: httpx.Client) -> None:
    message = {"role": "user", "content": "ab"}

    def answers(model: str) -> list[str]:
        chat = {"model": model, "messages": [message], "temperature": 0, "max_tokens": 8}
        ollama = {
            "model": model,
            "messages": [message],
            "stream": False,
            "options": {"temperature": 0, "num_predict": 8},
        }
        found = [
            client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"],
            client.post("/v1/messages", json=chat).json()["content"][0]["text"],
            client.post("/api/chat", json=ollama).json()["message"]["content"],
        ]
        assert len(set(found)) == 1
        return found

    assert answers("formal") != answers("lora")
    ollama = {
        "model": "tiny",
        "messages": [message],
        "stream": False,
        "options": {"temperature": 0, "num_predict": 8, "lora": [{"id": 1}]},
    }
    assert client.post("/api/chat", json=ollama).json()["message"]["content"] == answers("formal")[0]
    embeddings = [
        client.post("/v1/embeddings", json={"model": model, "input": "abc"}).json()["data"][0]["embedding"]
        for model in ("formal", "lora")
    ]
    assert not np.allclose(*embeddings)


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"lora": [{"id": 3}]}, 400, "names the adapter '3'; the loaded ones are: 0 (pirate), 1 (formal)"),
        ({"lora": [{"id": "nobody"}]}, 400, "names the adapter 'nobody'"),
        ({"lora": [{"scale": 1}]}, 400, "lora.0.id"),
        ({"lora": {"formal": 1}}, 400, "lora"),
        ({"model": "nobody"}, 404, "the models are tiny, pirate, formal, lora"),
    ],
)
def test_unknown_adapters_are_refused(
    more: dict[str, Any], status: int, message: str, client: httpx.Client
) -> None:
    response = client.post("/v1/completions", json={"prompt": PROMPT, **more})
    assert response.status_code == status
    assert message in response.text


def test_names_and_models_that_do_not_fit(tiny_model: Path, files: tuple[AdapterFile, ...]) -> None:
    async def make(*models: str) -> ModelManager:
        return ModelManager([(name, tiny_model) for name in models], LoadOptions(lora=files))

    with pytest.raises(UsageError, match="need a single model, and 2"):
        asyncio.run(make("a", "b"))
    with pytest.raises(UsageError, match="both called formal"):
        asyncio.run(make("formal"))
