"""Rankers that generate: a head for yes and no, and a prompt whose answer is one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.ranking import TEMPLATE
from edgellm.errors import ContextOverflowError, UsageError
from edgellm.gguf.types import GGMLType, ValueType
from tests.support.mutants import Pair, Parts, Tensor
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]

PROMPT = "<q>{query}</q> {document} {document}"
TEXTS = ["a cat on a mat", "the {query} itself", "x"]


def changed(unpacked: Path, folder: Path, *pairs: Pair, head: bool = False) -> Path:
    """A small model with more metadata, and with a head over its last row."""
    parts = Parts.of(official_gguf("qwen3", unpacked))
    tokens = next(pair.value for pair in parts.pairs if pair.key == "tokenizer.ggml.tokens")
    tokens[-2:] = [b"yes", b"no"]
    parts.pairs += pairs
    if head:
        width = next(pair.value for pair in parts.pairs if pair.key == "qwen3.embedding_length")
        values = np.random.default_rng(3).standard_normal((2, width)).astype(np.float32)
        parts.tensors.append(Tensor("cls.output.weight", GGMLType.F32, (2, width), values.tobytes()))
    path = folder / "ranker.gguf"
    path.write_bytes(parts.build())
    return path


PROMPTED = Pair(TEMPLATE, ValueType.STRING, None, PROMPT)


def test_an_answer_of_yes_or_no_is_a_score(unpacked: Path, tmp_path: Path) -> None:
    path = changed(unpacked, tmp_path, PROMPTED)
    with Model.load(path, LoadOptions(threads=1, batch=16)) as model:
        ranked = model.rerank("cats", TEXTS)
        yes, no = (model.tokenizer.token_id(word) for word in ("yes", "no"))
        for entry in ranked:
            text = TEXTS[entry.index]
            ids = model.tokenizer.encode_segments(
                [("<q>", True), ("cats", False), ("</q> ", True), (text, False), (" ", True), (text, False)]
            )
            last = model.logits(ids)[-1].astype(np.float64)
            assert entry.score == pytest.approx(1 / (1 + np.exp(last[no] - last[yes])), abs=1e-5)
        assert [entry.score for entry in ranked] == sorted((e.score for e in ranked), reverse=True)
        assert model.rerank("cats", []) == []
        with pytest.raises(ContextOverflowError, match="shorten"):
            model.rerank("cats", ["word " * model.n_ctx])


def test_a_head_scores_the_last_row(unpacked: Path, tmp_path: Path) -> None:
    rank = Pair("qwen3.pooling_type", ValueType.UINT32, None, 4)
    path = changed(unpacked, tmp_path, PROMPTED, rank, head=True)
    found = []
    for backend in ("native", "interpreter"):
        with Model.load(path, LoadOptions(threads=1, batch=16, kv_type="f32", backend=backend)) as model:
            found.append({entry.index: entry.score for entry in model.rerank("cats", TEXTS)})
            with pytest.raises(UsageError):
                model.generate("a")
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert len(set(found[0].values())) == 3
