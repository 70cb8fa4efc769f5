"""Encoders and rankers from their checkpoints: the embeddings and scores that transformers computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.errors import UsageError
from edgellm.families import plan
from tests.support.encoders import TEXTS, encoders

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


def test_a_text_that_is_too_long_for_a_pair_loses_its_end(folder: Path) -> None:
    with converted("bert-rank", "F32", folder) as model:
        long, cut = " ".join(["ship"] * 2000), " ".join(["ship"] * 800)
        assert [entry.score for entry in model.rerank("a", [long])] == [
            entry.score for entry in model.rerank("a", [cut])
        ]


def test_an_embedder_ranks_nothing(folder: Path) -> None:
    with converted("nomic-mean", "F32", folder) as model, pytest.raises(UsageError, match="reranker"):
        model.rerank("a", ["b"])
