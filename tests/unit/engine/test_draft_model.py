"""A draft model beside the main one: equal answers, a consistent cache, and no drafts without a gain."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from edgellm.backends.base import Floats
from edgellm.engine.draft_model import DraftModel
from edgellm.engine.options import GenerateOptions
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import BackendError
from tests.support.fake_model import EOG, N_VOCAB, Collected, CountingBackend, HashModel, alone, run_all

GREEDY = GenerateOptions(temperature=0.0, max_tokens=50)
NOISE = HashModel()


def prompt(seed: int, size: int = 30) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB - 1), k=size)


def pair(
    backend: CountingBackend, draft_backend: CountingBackend, *, n_vocab: int = N_VOCAB, **options: Any
) -> tuple[Scheduler, DraftModel]:
    """A scheduler whose draft model's steps take no time, and whose own steps all take equal time."""
    draft = DraftModel(draft_backend, n_vocab=n_vocab, clock=lambda: 0.0)
    clock = functools.partial(next, itertools.count())
    return Scheduler(backend, frozenset({EOG}), draft_max=7, draft=draft, clock=clock, **options), draft


class Often(HashModel):
    """Logits of NOISE, except at every fifth position."""

    def logits(
        self, ids: Sequence[int], scales: Sequence[float] = (), positions: Sequence[int] | None = None, /
    ) -> Floats:
        rows = super().logits(ids, scales).copy()
        rows[4::5] = -rows[4::5]
        return rows if positions is None else rows[list(positions)]


@pytest.mark.parametrize(
    "options", [GREEDY, GenerateOptions(temperature=1.0, seed=3, max_tokens=50, logprobs=1)]
)
def test_a_model_that_drafts_for_itself_is_right_where_the_likeliest_is_sampled(
    options: GenerateOptions,
) -> None:
    backend, draft_backend = CountingBackend(), CountingBackend()
    scheduler, _ = pair(backend, draft_backend)
    one = Collected(prompt(1), options)
    run_all(scheduler, one)
    assert one.request.tokens == alone(prompt(1), options).request.tokens
    stats = one.finish.stats
    assert stats.n_drafted > 0
    if options.temperature == 0:
        assert stats.n_accepted == stats.n_drafted
        assert len(backend.steps) < 0.25 * stats.n_generated
    else:
        assert 0 < stats.n_accepted < stats.n_drafted


def test_several_requests_share_the_draft_models_steps() -> None:
    backend = CountingBackend(cache_tokens=1024, batch=24)
    draft_backend = CountingBackend(Often(), cache_tokens=1024, batch=24)
    scheduler, _ = pair(backend, draft_backend)
    together = [Collected(prompt(n, 25 + 10 * n), GREEDY) for n in range(4)]
    run_all(scheduler, *together)
    for n, one in enumerate(together):
        assert one.request.tokens == alone(prompt(n, 25 + 10 * n), GREEDY).request.tokens
        assert 0 < one.finish.stats.n_accepted < one.finish.stats.n_drafted
    assert max(sum(step.values()) for step in [*backend.steps, *draft_backend.steps]) <= 24
    assert max(len(step) for step in draft_backend.steps) > 1


def test_what_was_read_is_kept_for_the_next_turn_and_closed_in_the_end() -> None:
    draft_backend = CountingBackend(Often())
    scheduler, draft = pair(CountingBackend(), draft_backend)
    first = Collected(prompt(5, 60), GREEDY)
    run_all(scheduler, first)
    draft_backend.steps.clear()
    second = Collected([*first.request.tokens, *prompt(6, 20)], GREEDY)
    run_all(scheduler, second)
    assert max(sum(step.values()) for step in draft_backend.steps) < 40
    assert draft.n_open == 0
    scheduler.stop()
    assert draft_backend.sequences == ()
    assert draft_backend.free_blocks == draft_backend.n_blocks


def test_cancelled_and_failed_requests_leave_no_sequence_behind() -> None:
    backend, draft_backend = CountingBackend(), CountingBackend()
    scheduler, draft = pair(backend, draft_backend, max_cached=0)
    one = Collected(prompt(7), GREEDY)
    scheduler.submit(one.request)
    while one.request.n_drafted == 0:
        scheduler.step()
    assert draft.n_open == 1
    one.request.cancel()
    scheduler.step()
    assert draft.n_open == 0

    failing = Collected(prompt(8), GREEDY)
    scheduler.submit(failing.request)
    while failing.request.n_drafted == 0:
        scheduler.step()
    backend.step = refuse  # type: ignore[method-assign]
    scheduler.step()
    assert failing.finish.reason == "error"
    assert draft.n_open == 0
    assert backend.sequences == ()


def refuse(*_: object) -> Floats:
    raise BackendError("the engine is gone")


def test_a_draft_model_that_fails_ends_the_requests_with_its_error() -> None:
    draft_backend = CountingBackend()
    scheduler, _ = pair(CountingBackend(), draft_backend)
    draft_backend.step = refuse  # type: ignore[method-assign]
    one = Collected(prompt(9), GREEDY)
    run_all(scheduler, one)
    assert one.finish.reason == "error"
    assert str(one.finish.error) == "the engine is gone"


@pytest.mark.parametrize("kind", [{}, {"kept_tokens": 8}])
def test_small_caches_and_contexts_only_mean_fewer_drafts(kind: dict[str, Any]) -> None:
    backend = CountingBackend(n_ctx=128, cache_tokens=160, block_tokens=16, batch=32)
    draft_backend = CountingBackend(Often(), n_ctx=64, cache_tokens=96, block_tokens=16, batch=16, **kind)
    scheduler, draft = pair(backend, draft_backend, max_cached=0)
    together = [Collected(prompt(n), GREEDY) for n in range(5)]
    run_all(scheduler, *together)
    for n, one in enumerate(together):
        assert one.request.tokens == alone(prompt(n), GREEDY, n_ctx=128).request.tokens
    assert sum(one.finish.stats.n_accepted for one in together) > 0
    assert draft.n_open == 0
    scheduler.stop()
    assert draft_backend.free_blocks == draft_backend.n_blocks


def test_tokens_that_only_the_larger_model_has_are_never_computed_or_drafted() -> None:
    class Smaller(CountingBackend):
        def step(self, tokens, sequences, outputs, n_largest=0):  # type: ignore[no-untyped-def]
            assert max(tokens) < 20
            return super().step(tokens, sequences, outputs, n_largest)  # type: ignore[no-untyped-call]

    scheduler, draft = pair(CountingBackend(), Smaller(), n_vocab=20)
    low = [token % 20 for token in prompt(10)]
    one = Collected(low, GREEDY)
    run_all(scheduler, one)
    assert one.request.tokens == alone(low, GREEDY).request.tokens
    assert max(one.request.tokens) >= 20
    assert draft.n_open == 0


def test_a_draft_model_as_slow_as_the_model_is_not_asked_again() -> None:
    class Timed(CountingBackend):
        now = 0.0

        def step(self, tokens, sequences, outputs, n_largest=0):  # type: ignore[no-untyped-def]
            Timed.now += 1.0 + 0.1 * len(tokens)
            return super().step(tokens, sequences, outputs, n_largest)  # type: ignore[no-untyped-call]

    draft_backend = Timed()
    draft = DraftModel(draft_backend, n_vocab=N_VOCAB, clock=lambda: Timed.now)
    scheduler = Scheduler(Timed(), frozenset({EOG}), draft_max=7, draft=draft, clock=lambda: Timed.now)
    one = Collected(prompt(11), GenerateOptions(temperature=0.0, max_tokens=150))
    run_all(scheduler, one)
    assert one.finish.stats.n_accepted == one.finish.stats.n_drafted > 0
    assert len(draft_backend.steps) < 20
