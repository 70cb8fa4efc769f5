"""Speculative decoding: answers equal those without it, steps stay in bounds, drafts stop when they cost."""

from __future__ import annotations

import itertools
import random
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgellm.engine.options import GenerateOptions
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.speculation import StepCosts
from tests.support.fake_model import EOG, N_VOCAB, Collected, CountingBackend, HashModel, alone, run_all

GREEDY = GenerateOptions(temperature=0.0, max_tokens=60)
PERIOD = 7


def mostly_periodic(ids: Sequence[int]) -> int | None:
    """The token seven positions back, with a few exceptions."""
    if len(ids) < PERIOD or zlib.crc32(bytes(ids[-3:]) + len(ids).to_bytes(2, "little")) % 9 == 0:
        return None
    return ids[1 - PERIOD]


PERIODIC = HashModel(mostly_periodic)
CIRCULAR = HashModel(lambda ids: (ids[-1] + 1) % 10)
CIRCLE = list(range(10)) * 3


def ticking(seconds: float = 1.0) -> Callable[[], float]:
    """A clock that advances at each reading, so that all steps take equal time."""
    ticks = itertools.count()
    return lambda: seconds * next(ticks)


def drafting(backend: CountingBackend, draft_max: int = 7, **options: Any) -> Scheduler:
    return Scheduler(backend, frozenset({EOG}), draft_max=draft_max, clock=ticking(), **options)


def prompt(seed: int, size: int = 30) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB - 1), k=size)


def same(one: Collected, expected: Collected) -> None:
    """Fail unless both have the same tokens, text, reported tokens and end."""
    assert one.request.tokens == expected.request.tokens
    assert one.text == expected.text
    assert one.finish.reason == expected.finish.reason
    assert one.finish.stop == expected.finish.stop
    tokens, wanted = ([t for e in c.events for t in getattr(e, "tokens", ())] for c in (one, expected))
    assert [t.id for t in tokens] == [t.id for t in wanted]
    assert [t.top for t in tokens] == [t.top for t in wanted]
    np.testing.assert_array_equal([t.logprob for t in tokens], [t.logprob for t in wanted])


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        GenerateOptions(temperature=1.0, seed=5, max_tokens=60, top_k=0, top_p=1.0, min_p=0.0),
        GenerateOptions(temperature=0.0, max_tokens=60, logprobs=3),
        GenerateOptions(temperature=0.7, seed=1, max_tokens=60, repeat_penalty=1.3, frequency_penalty=0.2),
        GenerateOptions(temperature=0.0, max_tokens=60, logit_bias={3: 5.0, 4: -5.0}),
        GenerateOptions(temperature=0.0, ignore_eos=True),
    ],
)
def test_answers_are_those_without_drafts(options: GenerateOptions) -> None:
    backend = CountingBackend(PERIODIC)
    one = Collected(prompt(1), options)
    run_all(drafting(backend), one)
    same(one, alone(prompt(1), options, PERIODIC))
    stats = one.finish.stats
    assert 0 < stats.n_accepted < stats.n_drafted
    assert len(backend.steps) < stats.n_generated


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_an_answer_ends_at_its_length_inside_a_draft(max_tokens: int) -> None:
    options = GenerateOptions(temperature=0.0, max_tokens=max_tokens)
    one = Collected(CIRCLE, options)
    run_all(drafting(CountingBackend(CIRCULAR)), one)
    same(one, alone(CIRCLE, options, CIRCULAR))


@pytest.mark.parametrize("at", range(8))
def test_an_answer_ends_at_a_stop_text_or_token_inside_a_draft(at: int) -> None:
    options = GenerateOptions(temperature=0.0, max_tokens=60, stop=("ABCDEFGHIJ"[at] + "ABCDEFGHIJ"[at + 1],))
    one = Collected(CIRCLE, options)
    run_all(drafting(CountingBackend(CIRCULAR)), one)
    same(one, alone(CIRCLE, options, CIRCULAR))
    assert one.finish.reason == "stop"

    ending = HashModel(lambda ids: EOG if len(ids) == 33 + at else (ids[-1] + 1) % 10)
    one = Collected(CIRCLE, GREEDY)
    run_all(drafting(CountingBackend(ending)), one)
    same(one, alone(CIRCLE, GREEDY, ending))
    assert one.request.tokens[-1] == EOG


def test_an_answer_ends_with_the_context() -> None:
    options = GenerateOptions(temperature=0.0)
    one = Collected(CIRCLE, options)
    run_all(drafting(CountingBackend(CIRCULAR, n_ctx=64)), one)
    same(one, alone(CIRCLE, options, CIRCULAR, n_ctx=64))
    assert one.finish.reason == "context"


class Alternating:
    """Allows even and odd tokens in turn; remembers what it accepted."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def mask(self) -> memoryview:
        bits = 0x55555555 if len(self.accepted) % 2 == 0 else 0xAAAAAAAA
        return memoryview(array("I", [bits, bits]))

    def accept(self, token: int, /) -> bool:
        self.accepted.append(token)
        return len(self.accepted) == 40


def test_a_grammar_never_sees_a_draft() -> None:
    def answer(scheduler: Scheduler) -> tuple[Collected, list[int]]:
        one, matcher = Collected(prompt(4), GREEDY), Alternating()
        one.request.matcher = matcher
        run_all(scheduler, one)
        return one, matcher.accepted

    expected, steps = answer(Scheduler(CountingBackend(PERIODIC), frozenset({EOG})))
    found, drafted_steps = answer(drafting(CountingBackend(PERIODIC)))
    same(found, expected)
    assert drafted_steps == steps == found.request.tokens[30:]
    assert found.finish.stats.n_drafted > 0


def test_requests_in_one_batch_do_not_disturb_each_other() -> None:
    backend = CountingBackend(PERIODIC, cache_tokens=1024, batch=20)
    scheduler = drafting(backend)
    options = [GenerateOptions(temperature=0.8 * (n % 2), seed=n, max_tokens=20 + 9 * n) for n in range(6)]
    together = [Collected(prompt(n, 20 + 15 * n), options[n]) for n in range(6)]
    run_all(scheduler, *together)
    for n, one in enumerate(together):
        same(one, alone(prompt(n, 20 + 15 * n), options[n], PERIODIC))
    assert max(sum(step.values()) for step in backend.steps) <= 20
    assert sum(one.finish.stats.n_accepted for one in together) > 0


@pytest.mark.parametrize("kind", [{}, {"kept_tokens": 4}, {"recurrent": True}])
def test_nothing_is_left_behind_in_a_cache_that_is_too_small(kind: dict[str, Any]) -> None:
    backend = CountingBackend(PERIODIC, n_ctx=128, cache_tokens=160, block_tokens=16, batch=32, **kind)
    scheduler = drafting(backend, max_cached=0)
    assert scheduler.speculates == ("recurrent" not in kind)
    options = GenerateOptions(temperature=0.0, max_tokens=60)
    together = [Collected(prompt(n), options) for n in range(5)]
    run_all(scheduler, *together)
    for n, one in enumerate(together):
        same(one, alone(prompt(n), options, PERIODIC, n_ctx=128))
        assert (one.finish.stats.n_drafted > 0) == scheduler.speculates
    assert backend.sequences == ()
    assert backend.free_blocks == backend.n_blocks


def test_a_draft_never_takes_another_requests_blocks() -> None:
    # Two answers fill the cache but for what the last tokens of each need.
    backend = CountingBackend(PERIODIC, n_ctx=64, cache_tokens=96, block_tokens=4, batch=32)
    scheduler = drafting(backend, max_cached=0)
    together = [Collected(prompt(n, 10), GenerateOptions(temperature=0.0, max_tokens=38)) for n in range(2)]
    for one in together:
        scheduler.submit(one.request)
    while scheduler.busy:
        scheduler.step()
        assert all(one.finished or one.request.sequence is not None for one in together)
    for n, one in enumerate(together):
        same(one, alone(prompt(n, 10), GenerateOptions(temperature=0.0, max_tokens=38), PERIODIC, n_ctx=64))


def test_a_cancelled_answer_leaves_nothing_behind() -> None:
    backend = CountingBackend(PERIODIC)
    scheduler = drafting(backend)
    one = Collected(prompt(6), GREEDY)
    scheduler.submit(one.request)
    while one.request.n_drafted == 0:
        scheduler.step()
    one.request.cancel()
    scheduler.step()
    assert one.finish.reason == "cancelled"
    again = Collected(one.request.tokens, GREEDY)
    run_all(scheduler, again)
    same(again, alone(one.request.tokens, GREEDY, PERIODIC))
    assert again.finish.stats.n_cached == len(one.request.tokens) - 1


def test_no_drafts_unless_asked_for() -> None:
    one = Collected(prompt(1), GREEDY)
    scheduler = Scheduler(CountingBackend(PERIODIC), frozenset({EOG}))
    run_all(scheduler, one)
    assert not scheduler.speculates
    assert one.finish.stats.n_drafted == 0


class Priced(CountingBackend):
    """A backend whose steps take a second, and `each` more for every token but the first."""

    def __init__(self, each: float, model: HashModel) -> None:
        super().__init__(model, n_ctx=256)
        self.now, self._each = 0.0, each

    def step(self, tokens, sequences, outputs, n_largest=0):  # type: ignore[no-untyped-def]
        self.now += 1.0 + self._each * (len(tokens) - 1)
        return super().step(tokens, sequences, outputs, n_largest)  # type: ignore[no-untyped-call]


def seconds(model: HashModel, each: float, draft_max: int) -> tuple[float, Collected]:
    """Seconds of 200 tokens, and the request."""
    backend = Priced(each, model)
    scheduler = Scheduler(backend, frozenset({EOG}), draft_max=draft_max, clock=lambda: backend.now)
    one = Collected(prompt(7), GenerateOptions(temperature=0.0, max_tokens=200))
    run_all(scheduler, one)
    return backend.now, one


@pytest.mark.parametrize("each", [0.1, 0.3, 0.6, 1.2])
def test_text_that_does_not_repeat_costs_next_to_nothing(each: float) -> None:
    # A fifth of the tokens are one that anything may follow: pairs repeat, their continuations do not.
    noise = HashModel(lambda ids: 5 if zlib.crc32(bytes(ids[-9:])) % 5 else None)
    without, _ = seconds(noise, each, 0)
    drafted, _ = seconds(noise, each, 7)
    assert drafted < 1.03 * without


def test_the_drafts_grow_with_what_comes_true_and_shrink_with_what_they_cost() -> None:
    cheap, one = seconds(PERIODIC, 0.1, 7)
    assert cheap < 0.5 * seconds(PERIODIC, 0.1, 0)[0]
    dear, other = seconds(PERIODIC, 0.5, 7)
    assert dear < seconds(PERIODIC, 0.5, 0)[0]
    assert other.request.n_drafted < one.request.n_drafted
    assert seconds(PERIODIC, 1.5, 7)[1].request.n_drafted < 30


def test_costs_are_learned_and_one_slow_step_is_not_believed() -> None:
    costs = StepCosts()
    for n in (1, 2, 4, 7, 3, 5) * 20:
        costs.add(1, 0, 2.0)
        costs.add(1, n, 2.0 + 0.5 + 0.25 * n)
    plain, first, each = costs.expected(1)
    assert plain == pytest.approx(2.0)
    assert first == pytest.approx(0.5, abs=0.15)
    assert each == pytest.approx(0.25, abs=0.03)
    costs.add(1, 0, 1000.0)
    costs.add(1, 5, 1000.0)
    assert costs.expected(1)[0] < 3.0
    assert costs.expected(1)[2] < 0.6
    # Other sizes are estimated from the nearest known one.
    assert costs.expected(3)[0] > costs.expected(1)[0]


def test_costs_of_a_part_are_never_less_than_its_part() -> None:
    costs = StepCosts()
    costs.add(256, 0, 2.56)
    plain, first, each = costs.expected(1)
    assert 0.01 <= plain < 2.56
    assert first >= 0
    assert each >= 0
    costs.add(1, 0, 0.0)
    assert costs.expected(1)[0] == plain
