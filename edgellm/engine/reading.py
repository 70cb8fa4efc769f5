"""Results for a whole text: logits of every token, losses, log-probabilities, an embedding.

A module apart from `model`, because it imports NumPy, which would take a third of a start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.backends.base import Backend, Floats, Ids
from edgellm.engine.adapters import Scales
from edgellm.engine.sampling import Sampled

if TYPE_CHECKING:
    from edgellm.engine.model import Model


def all_logits(backend: Backend, tokens: Sequence[int], scales: Scales) -> Floats:
    """Logits (n_tokens, n_vocab) of every position of one sequence."""
    return np.concatenate(list(_chunks(backend, tokens, scales)))


def losses(
    backend: Backend,
    tokens: Sequence[int],
    scales: Scales,
    progress: Callable[[int, int], None] | None,
    place: tuple[int, int],
) -> NDArray[np.float64]:
    """Negative log-likelihoods of each token but the first.

    progress: called with the numbers of tokens done and to do; place: the tokens before these, and all.
    """
    ids = np.asarray(tokens)
    found: list[NDArray[np.float64]] = []
    position = 0
    for logits in _chunks(backend, tokens, scales):
        following = ids[position + 1 : position + 1 + len(logits)]
        wide = logits[: len(following)].astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        picked = wide[np.arange(len(following)), following]
        found.append(np.log(np.exp(wide).sum(axis=1)) - picked)
        position += len(logits)
        if progress is not None:
            progress(place[0] + position, place[1])
    return np.concatenate(found)


def token_logprobs(backend: Backend, tokens: Sequence[int], scales: Scales, n_top: int) -> list[Sampled]:
    """Log-probability of each token given those before it, and the n_top likeliest; the first has NaN."""
    found = [Sampled(tokens[0], math.nan, ())]
    for logits in _chunks(backend, tokens, scales):
        for row in logits[: len(tokens) - len(found)].astype(np.float64):
            row -= row.max()
            row -= np.log(np.exp(row).sum())
            best = np.argpartition(-row, min(n_top, len(row) - 1))[:n_top]
            likeliest = best[np.argsort(-row[best], kind="stable")]
            token = tokens[len(found)]
            top = tuple((int(other), float(row[other])) for other in likeliest)
            found.append(Sampled(token, float(row[token]), top))
    return found


def hidden_steps(
    model: Model, texts: Sequence[Sequence[int]], scales: Scales
) -> Iterator[tuple[Floats, list[int]]]:
    """Hidden states (n_tokens, width) of each step over tokenized texts, and the tokens of its texts.

    Texts share steps, as many as fit in one, where the model is an encoder; their order stays.
    ContextOverflowError for a text beyond the context.
    """
    backend = model.backend
    block = backend.block_tokens
    together = model.program.is_encoder
    group: list[Sequence[int]] = []
    n_tokens = n_blocks = 0

    def run() -> tuple[Floats, list[int]]:
        lengths = list(map(len, group))
        joined = [token for ids in group for token in ids]
        work = partial(_hidden, joined, scales, lengths)
        return model.scheduler.exclusively(n_blocks * block, work, longest=max(lengths)), lengths

    for ids in texts:
        blocks = -(-len(ids) // block)
        fits = n_tokens + len(ids) <= backend.batch and n_blocks + blocks <= backend.n_blocks
        if group and not (together and fits):
            yield run()
            group, n_tokens, n_blocks = [], 0, 0
        group.append(ids)
        n_tokens += len(ids)
        n_blocks += blocks
    if group:
        yield run()


def hidden_rows(model: Model, texts: Sequence[Sequence[int]], scales: Scales) -> Iterator[Floats]:
    """Hidden states (n_tokens, width) of each tokenized text, in order; as `hidden_steps`."""
    for rows, lengths in hidden_steps(model, texts, scales):
        yield from np.split(rows, np.cumsum(lengths)[:-1])


def _hidden(tokens: Ids, scales: Scales, lengths: Ids, backend: Backend) -> Floats:
    return backend.hidden(tokens, scales, lengths if len(lengths) > 1 else ())


def _chunks(backend: Backend, tokens: Sequence[int], scales: Scales) -> Iterator[Floats]:
    """Logits of every position, one step's tokens after another."""
    sequence = backend.open_sequence(scales)
    try:
        for start in range(0, len(tokens), backend.batch):
            part = tokens[start : start + backend.batch]
            yield np.asarray(backend.step(part, [sequence] * len(part), [True] * len(part)))
    finally:
        backend.close_sequence(sequence)
