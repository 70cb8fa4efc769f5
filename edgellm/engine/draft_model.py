"""Draft model: a smaller model of the same vocabulary that drafts tokens for a larger one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgellm.backends.base import Backend, blocks_for
from edgellm.engine.prefix_cache import PrefixCache
from edgellm.engine.request import Request

# A step with more tokens of a sequence than this is a prefill and does not count for `step_s`.
_MOST_NEW = 8


@dataclass(slots=True)
class _Draft:
    """A sequence, its tokens, and how many of them are known to be the request's."""

    sequence: int
    tokens: list[int]
    n_sure: int


class DraftModel:
    """Continues requests greedily, each in a sequence of its own, all of them in the same steps.

    n_vocab: ids below it mean the same to both models; others are neither computed nor drafted. A request's
    text is computed when its first draft is due, apart from a prefix left by a finished request.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        n_vocab: int,
        max_cached: int = 32,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._backend = backend
        self._n_vocab = n_vocab
        self._clock = clock
        self._prefixes = PrefixCache(backend, max_cached=max_cached)
        self._drafts: dict[int, _Draft] = {}
        self._barred: set[int] = set()  # requests with tokens outside this model's vocabulary
        self.step_s = 0.0  # running mean of a drafting step

    @property
    def n_open(self) -> int:
        """Number of requests that have a sequence here."""
        return len(self._drafts)

    def room(self, request: Request, most: int) -> int:
        """Number of tokens, at most `most`, that can be drafted after the request's."""
        if request.number in self._barred:
            return 0
        return max(0, min(most, self._backend.n_undo, self._backend.n_ctx - len(request.tokens)))

    def continue_all(self, wanted: Mapping[Request, int]) -> dict[Request, list[int]]:
        """Draft the given number of tokens for each request; none while its text is in prefill or the cache
        is full.

        Raises BackendError.
        """
        drafted: dict[Request, list[int]] = {request: [] for request in wanted}
        feeds: dict[Request, list[int]] = {}
        left = self._backend.batch
        for request in wanted:
            pending = self._pending(request)[:left]
            if pending:
                feeds[request] = pending
                left -= len(pending)
        while feeds:
            found = self._step(feeds)
            feeds = {}
            for request, token in found.items():
                drafted[request].append(token)
                if len(drafted[request]) < wanted[request]:
                    feeds[request] = [token]
        return drafted

    def release(self, request: Request) -> None:
        """Move a request's sequence to the prefix cache."""
        self._barred.discard(request.number)
        draft = self._drafts.pop(request.number, None)
        if draft is not None:
            self._prefixes.add(draft.sequence, draft.tokens)

    def close(self) -> None:
        """Free the model's memory."""
        self._backend.close()

    def clear(self) -> None:
        """Close every sequence."""
        for draft in self._drafts.values():
            self._backend.close_sequence(draft.sequence)
        self._drafts.clear()
        self._prefixes.clear()

    def _pending(self, request: Request) -> list[int]:
        """Tokens that the request's sequence, opened or truncated, lacks; none for a request that cannot be
        drafted.
        """
        draft = self._drafts.get(request.number)
        if draft is None:
            live = [(other.sequence, other.tokens) for other in self._drafts.values()]
            start = self._prefixes.acquire(request.tokens, live)
            draft = _Draft(start.sequence, request.tokens[: start.n_tokens], start.n_tokens)
            self._drafts[request.number] = draft
        while draft.n_sure < len(draft.tokens) and draft.tokens[draft.n_sure] == request.tokens[draft.n_sure]:
            draft.n_sure += 1
        if draft.n_sure < len(draft.tokens):
            self._backend.truncate_sequence(draft.sequence, draft.n_sure)
            del draft.tokens[draft.n_sure :]
        pending = request.tokens[draft.n_sure :]
        if max(pending) >= self._n_vocab:
            self._barred.add(request.number)
            return []
        return pending

    def _step(self, feeds: Mapping[Request, list[int]]) -> dict[Request, int]:
        """Compute these tokens; returns the likeliest next token of each request whose whole text is
        computed.
        """
        drafts = [self._drafts[request.number] for request in feeds]
        counts = [len(tokens) for tokens in feeds.values()]
        block = self._backend.block_tokens
        needed = sum(blocks_for(len(d.tokens), n, block) for d, n in zip(drafts, counts, strict=True))
        if not self._prefixes.make_room(needed):
            return {}
        complete = {
            request: len(draft.tokens) + n >= len(request.tokens)
            for request, draft, n in zip(feeds, drafts, counts, strict=True)
        }
        sequences: list[int] = []
        outputs: list[bool] = []
        for draft, n, done in zip(drafts, counts, complete.values(), strict=True):
            sequences += [draft.sequence] * n
            outputs += [*[False] * (n - 1), done]
        begin = self._clock()
        tokens_of_all = [token for tokens in feeds.values() for token in tokens]
        n_largest = 1 if self._backend.n_vocab == self._n_vocab else 0
        logits = np.asarray(self._backend.step(tokens_of_all, sequences, outputs, n_largest))
        if max(counts) <= _MOST_NEW:
            seconds = self._clock() - begin
            self.step_s = seconds if self.step_s == 0.0 else 0.8 * self.step_s + 0.2 * seconds
        for draft, tokens in zip(drafts, feeds.values(), strict=True):
            draft.tokens += tokens
        best = logits[:, : self._n_vocab].argmax(axis=1).tolist()
        return dict(zip((request for request, done in complete.items() if done), best, strict=True))
