"""Encoders and rankers from their checkpoints: the embeddings and scores that transformers computes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.errors import FormatError, UnsupportedError, UsageError
from edgellm.families import plan
from edgellm.gguf.reader import GGUFFile
from tests.llama_cpp_families import exact_attention
from tests.support.encoders import PROMPTS, TEXTS, Floats, encoders

pytest.importorskip("edgellm._native", reason="needs the built extension module")

RANKERS = [name for name, case in encoders().items() if case.pooling == "rank"]
EMBEDDERS = [name for name, case in encoders().items() if case.pooling != "rank"]
# Of a random model, whose rounding errors no training has made small.
COSINE = {"F32": 0.99999, "Q8_0": 0.98}
DISTANCE = {"F32": 1e-4, "Q8_0": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


def converted(name: str, kind: str, folder: Path) -> Model:
    path = folder / f"{name}-{kind}.gguf"
    if not path.exists():
        checkpoint = Checkpoint(encoders()[name].write(folder / name))
        write(plan_conversion(checkpoint, recipe(kind), threads=1), path, threads=1)
    return Model.load(path, LoadOptions(threads=1, kv_type="f32"))


@pytest.mark.parametrize("kind", COSINE)
@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings_are_those_of_transformers(name: str, kind: str, folder: Path) -> None:
    with converted(name, kind, folder) as model:
        found = model.embed(TEXTS)
        assert np.array_equal(found[7], model.embed(TEXTS[7]))
    cosines = (found * encoders()[name].expected).sum(axis=1)
    assert cosines.min() > COSINE[kind]


def test_sizes_that_llama_cpp_reads_stand_in_the_metadata(folder: Path) -> None:
    converted("gemma-dense", "F32", folder).close()
    converted("roberta-cls", "F32", folder).close()
    with GGUFFile.open(folder / "gemma-dense-F32.gguf") as file:
        sizes = {key: value for key, value in file.metadata.items() if "_feat_" in key}
    inner = {"gemma-embedding.dense_2_feat_in": 64, "gemma-embedding.dense_2_feat_out": 96}
    assert sizes == inner | {"gemma-embedding.dense_3_feat_in": 96, "gemma-embedding.dense_3_feat_out": 64}
    with GGUFFile.open(folder / "roberta-cls-F32.gguf") as file:
        assert file.metadata["tokenizer.ggml.token_type_count"] == file.tensors["token_types.weight"].shape[0]


# Files that llama.cpp does not load: it has no MPNet, and leaves out the experts' biases.
REFUSED = {"mpnet-mean", "nomic-moe"}


@pytest.mark.parametrize("name", sorted(set(EMBEDDERS) - REFUSED))
def test_rows_of_a_text_are_those_of_llama_cpp(name: str, folder: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    exact_attention()
    with converted(name, "F32", folder) as model:
        tokens = model.tokenize(TEXTS[30])
        rows = np.asarray(model.backend.hidden(tokens))
    options = LoadOptions(threads=1, kv_type="f32", backend="llama_cpp")
    with Model.load(folder / f"{name}-F32.gguf", options) as model:
        # Its GELU is a table of 16-bit floats.
        np.testing.assert_allclose(np.asarray(model.backend.hidden(tokens)), rows, atol=0.02)


def test_llama_cpp_gives_no_scores(folder: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    converted("bert-rank", "F32", folder).close()
    with pytest.raises(UnsupportedError, match="no scores"):
        Model.load(folder / "bert-rank-F32.gguf", LoadOptions(threads=1, backend="llama_cpp"))


@pytest.mark.parametrize("kind", DISTANCE)
@pytest.mark.parametrize("name", RANKERS)
def test_scores_are_those_of_transformers(name: str, kind: str, folder: Path) -> None:
    expected = encoders()[name].expected[:, 0]
    with converted(name, kind, folder) as model:
        for i in range(0, len(TEXTS), 7):
            (only,) = model.rerank(TEXTS[i], [TEXTS[(i * 7 + 3) % len(TEXTS)]])
            assert abs(only.score - expected[i]) < DISTANCE[kind]
        ranked = model.rerank(TEXTS[5], TEXTS[:9])
        again = {entry.index: entry.score for entry in ranked}
        assert [entry.score for entry in ranked] == sorted(again.values(), reverse=True)
        for i in (0, 4, 8):
            assert model.rerank(TEXTS[5], [TEXTS[i]])[0].score == again[i]
        assert model.rerank(TEXTS[5], TEXTS[:9], 2) == ranked[:2]
        with pytest.raises(UsageError, match="ranks texts and makes no embeddings"):
            model.embed("a")


@pytest.mark.parametrize("name", sorted(encoders()))
def test_both_forms_of_a_config_make_one_plan(name: str) -> None:
    case = encoders()[name]
    plans = [plan(config, case.shapes) for config in (case.config, case.saved)]
    assert plans[0].metadata == plans[1].metadata
    names = [[(tensor.name, tensor.shape) for tensor in planned.tensors] for planned in plans]
    assert names[0] == names[1]


@pytest.mark.parametrize("kind", COSINE)
def test_prompts_of_the_file_are_put_before_texts(kind: str, folder: Path) -> None:
    expected = encoders()["qwen3-last"]
    assert expected.queries is not None
    with converted("qwen3-last", kind, folder) as model:
        found = model.embed(TEXTS, prompt_name="query")
        plain = model.embed(TEXTS[:9])
        assert np.array_equal(model.embed(TEXTS[:9], prompt_name="document"), plain)
        assert np.array_equal(model.embed(TEXTS[:9], prompt=PROMPTS["query"]), found[:9])
        with pytest.raises(UsageError, match="prompts of this model are query, document"):
            model.embed("a", prompt_name="passage")
    assert (found * expected.queries).sum(axis=1).min() > COSINE[kind]
    assert (plain * expected.queries[:9]).sum(axis=1).min() < COSINE[kind]


def test_a_default_prompt_is_put_before_texts_by_itself(tmp_path: Path) -> None:
    checkpoint = encoders()["qwen3-last"].write(tmp_path / "model")
    settings = {"prompts": PROMPTS, "default_prompt_name": "query"}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(settings))
    write(plan_conversion(Checkpoint(checkpoint), recipe("F32"), threads=1), tmp_path / "m.gguf", threads=1)
    with Model.load(tmp_path / "m.gguf", LoadOptions(threads=1, kv_type="f32")) as model:
        found = model.embed(TEXTS[:5])
        assert np.array_equal(found, model.embed(TEXTS[:5], prompt_name="query"))
        assert not np.array_equal(found, model.embed(TEXTS[:5], prompt=""))
    settings["default_prompt_name"] = "passage"
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(FormatError, match="'passage', expected one of query, document"):
        plan_conversion(Checkpoint(checkpoint), recipe("F32"), threads=1)


@pytest.mark.parametrize("name", ["nomic-mean", "gemma-dense", "qwen3-last"])
def test_fewer_dimensions_are_the_first_ones_at_length_1(name: str, folder: Path) -> None:
    first = encoders()[name].expected[:, :24].astype(np.float64)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    with converted(name, "F32", folder) as model:
        found = model.embed(TEXTS, dimensions=24)
        assert found.shape == first.shape
        for wrong in (0, model.embed("a").size + 1):
            with pytest.raises(UsageError, match="dimensions"):
                model.embed("a", dimensions=wrong)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found * first).sum(axis=1).min() > COSINE["F32"]


def test_texts_of_all_lengths_share_steps(folder: Path) -> None:
    texts = [TEXTS[i * 17 % len(TEXTS)] for i in range(60)] + ["a"] * 200
    with converted("bert-mean", "F32", folder) as model:
        lengths = [len(model.tokenize(text, add_special=True)) for text in texts]
        steps: list[int] = []
        hidden = model.backend.hidden

        def counted(tokens: Sequence[int], *rest: Any) -> Floats:
            steps.append(len(tokens))
            return hidden(tokens, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model.backend, "hidden", counted)
            found = model.embed(texts)
        assert sum(steps) == sum(lengths)
        assert max(steps) <= model.backend.batch
        # Blocks of 32 tokens are what bounds steps of short texts.
        assert len(steps) <= sum(lengths) // 300 + 200 // 60
        assert np.array_equal(found[59], model.embed(texts[59]))


def test_a_text_that_is_too_long_for_a_pair_loses_its_end(folder: Path) -> None:
    with converted("bert-rank", "F32", folder) as model:
        long, cut = " ".join(["ship"] * 2000), " ".join(["ship"] * 800)
        assert [entry.score for entry in model.rerank("a", [long])] == [
            entry.score for entry in model.rerank("a", [cut])
        ]


def test_an_embedder_ranks_nothing(folder: Path) -> None:
    with converted("nomic-mean", "F32", folder) as model, pytest.raises(UsageError, match="reranker"):
        model.rerank("a", ["b"])
