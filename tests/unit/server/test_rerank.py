"""Ranking over HTTP and on the command line: Jina's, TEI's and vLLM's forms, files and standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import Limits, ServerSettings
from tests.support.cli import edgellm
from tests.support.encoders import TEXTS, encoders
from tests.support.http_server import running

pytest.importorskip("edgellm._native", reason="needs the built extension module")

QUERY, OTHERS = TEXTS[7], [TEXTS[(7 * 7 + 3) % len(TEXTS)], "a", "two three"]


def gguf(name: str, folder: Path) -> Path:
    path = folder / f"{name}.gguf"
    checkpoint = Checkpoint(encoders()[name].write(folder / name))
    write(plan_conversion(checkpoint, recipe("F32"), threads=1), path, threads=1)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rankers")


@pytest.fixture(scope="module")
def ranker(folder: Path) -> Path:
    return gguf("bert-rank", folder)


@pytest.fixture(scope="module")
def client(ranker: Path) -> Iterator[httpx.Client]:
    settings = ServerSettings(port=0, limits=Limits(inputs=20))
    with (
        running([("ranker", ranker)], LoadOptions(threads=1), settings) as started,
        started.client() as opened,
    ):
        yield opened


def test_texts_are_ranked_in_the_form_of_jina(client: httpx.Client) -> None:
    documents = [OTHERS[0], {"text": OTHERS[1]}, OTHERS[2]]
    asked = {"model": "ranker", "query": QUERY, "documents": documents, "return_documents": True}
    answer = client.post("/v1/rerank", json=asked).json()
    scores = {entry["index"]: entry["relevance_score"] for entry in answer["results"]}
    assert scores[0] == pytest.approx(encoders()["bert-rank"].expected[7, 0], abs=1e-3)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert all(entry["document"]["text"] == OTHERS[entry["index"]] for entry in answer["results"])
    assert answer["usage"]["prompt_tokens"] > 20
    best = client.post("/rerank", json=asked | {"top_n": 1, "return_documents": False}).json()
    assert best["results"] == [
        {"index": max(scores, key=scores.__getitem__), "relevance_score": max(scores.values())}
    ]
    assert client.post("/v1/reranking", json=asked).json()["results"] == answer["results"]

    listed = client.post("/rerank", json={"query": QUERY, "texts": OTHERS, "return_text": True}).json()
    assert {entry["index"]: entry["score"] for entry in listed} == scores
    assert listed[0]["text"] == OTHERS[listed[0]["index"]]


def test_pairs_are_scored_in_the_form_of_vllm(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={"text_1": QUERY, "text_2": OTHERS}).json()
    ranked = client.post("/v1/rerank", json={"query": QUERY, "documents": OTHERS}).json()["results"]
    scores = {entry["index"]: entry["relevance_score"] for entry in ranked}
    assert [entry["score"] for entry in answer["data"]] == [scores[i] for i in range(3)]
    crossed = client.post("/v1/score", json={"text_1": [QUERY, QUERY], "text_2": OTHERS[:2]}).json()
    assert [entry["score"] for entry in crossed["data"]] == [scores[0], scores[1]]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/rerank", {"query": "a"}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": []}, "1 to 20"),
        ("/v1/rerank", {"query": "a", "documents": ["b"] * 21}, "21 texts"),
        ("/v1/rerank", {"query": "word " * 3000, "documents": ["b"]}, "context"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1 has 2 texts"),
        ("/v1/embeddings", {"input": "a"}, "ranks texts and makes no embeddings"),
    ],
)
def test_what_cannot_be_ranked_is_refused(client: httpx.Client, path: str, body: object, words: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_files_and_lines_are_ranked_on_the_command_line(ranker: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(OTHERS) + "\n\n")
    done = edgellm("rerank", "-m", ranker, QUERY, lines, "--json")
    assert done.status == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(entry["text"] for entry in found) == sorted(OTHERS)
    assert [entry["score"] for entry in found] == sorted((e["score"] for e in found), reverse=True)
    files = [tmp_path / f"{i}.txt" for i in range(3)]
    for path, text in zip(files, OTHERS, strict=True):
        path.write_text(text)
    done = edgellm("rerank", "-m", ranker, QUERY, *files, "--top", "1")
    assert done.out == f"{found[0]['score']:.4f}  {files[found[0]['index']]}\n"
    assert edgellm("rerank", "-m", ranker, QUERY, tmp_path / "none.txt").status == 1


def test_lines_are_embedded_on_the_command_line(folder: Path) -> None:
    path = gguf("nomic-mean", folder)
    done = edgellm("embed", "-m", path, "-", stdin=f"{TEXTS[3]}\n\n{TEXTS[4]}\n")
    assert done.status == 0, done.err
    rows = np.array([json.loads(line) for line in done.out.splitlines()])
    cosines = (rows * encoders()["nomic-mean"].expected[3:5]).sum(axis=1)
    assert cosines.min() > 0.999
    short = edgellm("embed", "-m", path, "-", "--dimensions", "8", stdin=TEXTS[3])
    assert np.allclose(json.loads(short.out), rows[0, :8] / np.linalg.norm(rows[0, :8]), atol=1e-4)
    assert edgellm("embed", "-m", path, "-", stdin="\n").status == 2


def test_prompts_of_the_file_are_used_by_name(folder: Path) -> None:
    path, case = gguf("qwen3-last", folder), encoders()["qwen3-last"]
    assert case.queries is not None
    given = TEXTS[3:5]
    with (
        running([("qwen", path)], LoadOptions(threads=1), ServerSettings(port=0)) as started,
        started.client() as client,
    ):
        for asked, expected in (
            ({"input": given, "prompt_name": "query"}, case.queries),
            ({"input": given, "prompt_name": "document"}, case.expected),
            ({"input": given}, case.expected),
        ):
            data = client.post("/v1/embeddings", json=asked).json()["data"]
            found = np.array([entry["embedding"] for entry in data])
            assert (found * expected[3:5]).sum(axis=1).min() > 0.999
        wrong = client.post("/v1/embeddings", json={"input": "a", "prompt_name": "passage"})
        assert wrong.status_code == 400
        assert "query, document" in wrong.json()["error"]["message"]
    for options, expected in ((["--prompt-name", "query"], case.queries), ([], case.expected)):
        done = edgellm("embed", "-m", path, "-", *options, stdin=given[0])
        assert (np.array(json.loads(done.out)) * expected[3]).sum() > 0.999
    assert edgellm("embed", "-m", path, "-", "--prompt-name", "passage", stdin="a").status == 2
