"""Scores of texts for a query: by a model's head for pairs of texts, or by its answer, yes or no.

A module apart from `model`, because it imports NumPy, which would take a third of a start.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgellm.backends.base import Backend, Floats
from edgellm.engine.adapters import Choice
from edgellm.engine.reading import hidden_rows
from edgellm.errors import ContextOverflowError, UsageError

if TYPE_CHECKING:
    from edgellm.engine.model import Model

# Prompt of a generative ranker, with {query} and {document}, as llama.cpp writes it.
TEMPLATE = "tokenizer.chat_template.rerank"
_PLACES = re.compile(r"\{(query|document)\}")


@dataclass(frozen=True, slots=True)
class Ranked:
    """One text: its place in the given order, and its score of 0 to 1, the higher the better it fits."""

    index: int
    score: float


def best_first(scores: Sequence[float], top_n: int | None = None) -> list[Ranked]:
    """The texts by their scores, at most top_n; equal ones stay in order."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [Ranked(i, float(scores[i])) for i in order[:top_n]]


def check_ranks(model: Model) -> None:
    """Raise UsageError if the model is no ranker."""
    if model.program.pooling != "rank" and TEMPLATE not in model.metadata:
        raise UsageError(
            f"{model.name}: the model has no head or prompt that ranks texts; use a reranker, "
            "such as bge-reranker-v2-m3"
        )


def pair_ids(model: Model, query: str, text: str) -> list[int]:
    """Token ids of a query and a text as the model reads them together.

    An encoder reads as much of a text as its context holds. Raises UsageError if the model is no ranker,
    ContextOverflowError if the query alone exceeds the context, or a prompt does.
    """
    check_ranks(model)
    template = model.metadata.get(TEMPLATE)
    if isinstance(template, str):
        given = {"query": query, "document": text}
        parts = _PLACES.split(template)
        segments = [(given[part], False) if i % 2 else (part, True) for i, part in enumerate(parts)]
        ids = model.tokenizer.encode_segments(segments)
    else:
        ids = model.tokenizer.encode_pair(query, text, model.n_ctx)
    if len(ids) > model.n_ctx:
        raise ContextOverflowError(
            f"The query and the text are {len(ids)} tokens long and the context holds {model.n_ctx}; "
            "shorten them or load the model with a larger context."
        )
    return ids


def scores(model: Model, pairs: Sequence[Sequence[int]], lora: Choice | None = None) -> Floats:
    """Scores (n_pairs,) of 0 to 1 of tokenized pairs, which share steps where the model is an encoder."""
    check_ranks(model)
    scales = model.scales(lora)
    if model.program.pooling == "rank":
        place = -1 if model.program.caches else 0
        rows = [hidden[place] for hidden in hidden_rows(model, pairs, scales)]
        return _from_head(model, np.stack(rows)) if rows else np.empty(0, np.float32)
    tokenizer = model.tokenizer
    answers = [token for word in ("yes", "no") if (token := tokenizer.token_id(word)) is not None]
    if len(answers) != 2:
        raise UsageError(f"{model.name}: the vocabulary has no tokens 'yes' and 'no', which rank texts")

    def answer(ids: Sequence[int]) -> Floats:
        def work(backend: Backend) -> Floats:
            sequence = backend.open_sequence(scales)
            try:
                for start in range(0, len(ids), backend.batch):
                    part = list(ids[start : start + backend.batch])
                    wanted = [start + i + 1 == len(ids) for i in range(len(part))]
                    logits = backend.step(part, [sequence] * len(part), wanted)
                return np.asarray(logits, np.float32).reshape(-1)[answers]
            finally:
                backend.close_sequence(sequence)

        return model.scheduler.exclusively(len(ids), work)

    return _softmax(np.stack([answer(ids) for ids in pairs])) if pairs else np.empty(0, np.float32)


def _from_head(model: Model, rows: Floats) -> Floats:
    """Scores from a head's values: one value, or one for yes and one for no."""
    if rows.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-rows[:, 0].astype(np.float64))), np.float32)
    if rows.shape[1] == 2:
        return _softmax(rows)
    raise UsageError(f"{model.name}: the head tells {rows.shape[1]} labels apart; a ranker has one or two")


def _softmax(rows: Floats) -> Floats:
    """Share of the first of two values."""
    wide = rows.astype(np.float64)
    return np.asarray(1 / (1 + np.exp(wide[:, 1] - wide[:, 0])), np.float32)
