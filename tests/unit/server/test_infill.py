"""Fill-in-the-middle with models whose vocabularies have tokens for it, and log-probabilities of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.infill import fill_in
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import small_bpe

MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"]
NAMED = {"fim_pre": 256 + 5, "fim_suf": 256 + 6, "fim_mid": 256 + 7}


def with_marks(texts: list[str]) -> dict[str, object]:
    known = small_bpe()
    tokens, types = known["tokenizer.ggml.tokens"], known["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    return {
        "tokenizer.ggml.tokens": [*tokens, *texts],
        "tokenizer.ggml.token_type": [*types, *[3] * len(texts)],
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    odd = with_marks([f"<odd{n}>" for n in range(8)])
    keys = {f"tokenizer.ggml.{name}_token_id": token for name, token in NAMED.items()}
    models = [
        ("fim", write_tiny_model(folder / "fim.gguf", **with_marks(MARKS))),
        ("named", write_tiny_model(folder / "named.gguf", **{**odd, **keys})),
        ("plain", write_tiny_model(folder / "plain.gguf")),
    ]
    with running(models, LoadOptions(threads=1, context=256)) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def ids_of(server: Running, name: str, *texts: Any, **files: Any) -> list[int]:
    loaded = server.service.models.find(name).loaded
    assert loaded is not None
    return fill_in(loaded.model, *texts, **files)


def test_the_prompt_of_a_gap(server: Running) -> None:
    a, b = 64, 65  # the bytes "a" and "b" in the alphabet
    assert ids_of(server, "fim", "a", "b") == [258, a, 259, b, 260]
    assert ids_of(server, "named", "a", "b") == [NAMED["fim_pre"], a, NAMED["fim_suf"], b, NAMED["fim_mid"]]
    whole = ids_of(server, "fim", "a", "b", files=[("f", "b")])
    assert whole[0] == 261
    assert whole.count(262) == 2
    assert whole[-5:] == [258, a, 259, b, 260]
    # Marks in the text itself are text.
    assert ids_of(server, "fim", MARKS[2], "").count(260) == 1


@pytest.mark.parametrize("model", ["fim", "named"])
def test_a_suffix_in_every_dialect(client: httpx.Client, model: str) -> None:
    greedy = {"temperature": 0, "ignore_eos": True}
    fields = {"model": model, "prompt": "a", "suffix": "b", "max_tokens": 5, **greedy}
    completed = client.post("/v1/completions", json=fields).json()
    assert completed["usage"]["prompt_tokens"] == 5
    text = completed["choices"][0]["text"]
    asked = {"model": model, "input_prefix": "a", "input_suffix": "b", "n_predict": 5, **greedy}
    assert client.post("/infill", json=asked).json()["content"] == text
    events = client.post("/infill", json={**asked, "stream": True}).text
    assert '"stop":true' in events
    options = {"num_predict": 5, **greedy}
    generate = {"model": model, "prompt": "a", "suffix": "b", "options": options, "stream": False}
    assert client.post("/api/generate", json=generate).json()["response"] == text
    many = client.post("/v1/completions", json={**fields, "prompt": ["a", "b"]})
    assert many.status_code == 400


def test_marks_in_a_completion_s_prompt(client: httpx.Client) -> None:
    fields = {"model": "fim", "prompt": f"{MARKS[0]}a{MARKS[1]}b{MARKS[2]}", "max_tokens": 1}
    assert client.post("/v1/completions", json=fields).json()["usage"]["prompt_tokens"] == 5


def test_a_model_without_tokens_for_it(client: httpx.Client) -> None:
    fields = {"model": "plain", "prompt": "a", "suffix": "b"}
    for path in ("/v1/completions", "/api/generate", "/infill"):
        response = client.post(path, json=fields)
        assert response.status_code == 400
        assert "fill-in-the-middle" in response.text


def test_log_probabilities_of_a_prompt_are_those_of_the_model(server: Running, client: httpx.Client) -> None:
    loaded = server.service.models.find("plain").loaded
    assert loaded is not None
    ids = loaded.model.tokenize("a bcab", add_special=True)
    rows = loaded.model.logits(ids).astype(np.float64)
    rows -= np.log(np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) + rows.max(
        axis=1, keepdims=True
    )
    body = {"model": "plain", "prompt": ids, "echo": True, "logprobs": 2, "max_tokens": 0}
    for fields in (body, {**body, "n": 2}, {**body, "prompt": [ids, ids]}):
        for choice in client.post("/v1/completions", json=fields).json()["choices"]:
            found = choice["logprobs"]
            expected = [rows[n, token] for n, token in enumerate(ids[1:])]
            assert found["token_logprobs"][0] is None
            assert found["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
            assert [max(top.values()) for top in found["top_logprobs"][1:]] == pytest.approx(
                rows.max(axis=1)[: len(ids) - 1].tolist(), abs=1e-3
            )
            assert found["text_offset"][0] == 0
            assert choice["text"] == "a bcab"
