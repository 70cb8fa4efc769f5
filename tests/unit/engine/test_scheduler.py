"""Requests in one batch: the same answers as alone, fair shares, clean ends, nothing leaked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from edgellm.backends.base import Floats
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import BackendError, ContextOverflowError, OverloadedError, UsageError
from tests.support.fake_model import EOG, N_VOCAB, Collected, CountingBackend, HashModel, alone, run_all

GREEDY = GenerateOptions(temperature=0.0, max_tokens=12)


def scheduler_over(
    backend: CountingBackend, *, max_active: int = 16, max_waiting: int = 256, max_cached: int = 32
) -> Scheduler:
    return Scheduler(
        backend, frozenset({EOG}), max_active=max_active, max_waiting=max_waiting, max_cached=max_cached
    )


def prompt(seed: int, size: int) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB - 1), k=size)


def test_answers_do_not_depend_on_the_batch() -> None:
    options = [
        GenerateOptions(
            temperature=0.0 if n % 2 else 1.0, seed=n, max_tokens=5 + n, top_k=0, top_p=1.0, min_p=0.0
        )
        for n in range(6)
    ]
    together = [Collected(prompt(n, 10 + 30 * n), options[n]) for n in range(6)]
    run_all(scheduler_over(CountingBackend(n_ctx=256, cache_tokens=1024, batch=32)), *together)
    for n, one in enumerate(together):
        expected = alone(prompt(n, 10 + 30 * n), options[n])
        assert one.request.tokens == expected.request.tokens
        assert one.text == expected.text
        assert one.finish.reason == "length"
        assert one.finish.stats.n_generated == 5 + n


def test_answers_survive_a_cache_too_small_for_all_of_them() -> None:
    backend = CountingBackend(n_ctx=128, cache_tokens=160, block_tokens=16, batch=32)
    scheduler = scheduler_over(backend)
    options = GenerateOptions(temperature=0.0, max_tokens=60)
    together = [Collected(prompt(n, 30), options) for n in range(5)]
    run_all(scheduler, *together)
    for n, one in enumerate(together):
        assert one.request.tokens == alone(prompt(n, 30), options, n_ctx=128).request.tokens
        assert one.finish.reason == "length"


def test_an_answer_under_way_gets_a_token_in_every_step_while_a_prompt_is_read() -> None:
    backend = CountingBackend(n_ctx=512, cache_tokens=2048, batch=16)
    scheduler = scheduler_over(backend)
    first = Collected(prompt(1, 4), GenerateOptions(temperature=0.0, max_tokens=40))
    scheduler.submit(first.request)
    scheduler.step()
    long = Collected(prompt(2, 200))
    scheduler.submit(long.request)
    sequence = first.request.sequence
    while long.request.n_generated == 0 and not first.finished:
        before = first.request.n_generated
        scheduler.step()
        assert first.request.n_generated == before + 1
        assert sequence is not None
        assert backend.steps[-1][sequence] == 1
        assert sum(backend.steps[-1].values()) <= 16


def test_a_short_prompt_overtakes_a_long_one_which_still_advances() -> None:
    backend = CountingBackend(n_ctx=512, cache_tokens=2048, batch=32)
    scheduler = scheduler_over(backend)
    long, short = Collected(prompt(1, 400)), Collected(prompt(2, 40))
    scheduler.submit(long.request)
    scheduler.step()
    scheduler.submit(short.request)
    while short.request.n_generated == 0:
        before = long.request.n_computed
        scheduler.step()
        assert long.request.n_computed > before
    assert long.request.n_generated == 0
    while scheduler.busy:
        scheduler.step()
    assert long.text == alone(prompt(1, 400), GenerateOptions(temperature=0.0, max_tokens=8), n_ctx=512).text


def test_a_cancelled_request_leaves_before_the_next_step() -> None:
    backend = CountingBackend()
    scheduler = scheduler_over(backend, max_cached=0)
    kept, dropped = Collected(prompt(1, 20), GREEDY), Collected(prompt(2, 20), GREEDY)
    scheduler.submit(kept.request)
    scheduler.submit(dropped.request)
    scheduler.step()
    sequence = dropped.request.sequence
    dropped.request.cancel()
    scheduler.step()
    assert dropped.finish.reason == "cancelled"
    assert sequence not in backend.steps[-1]
    assert len(backend.sequences) == 1
    while scheduler.busy:
        scheduler.step()
    assert kept.text == alone(prompt(1, 20), GREEDY).text
    assert not backend.sequences


def test_a_request_can_be_cancelled_while_it_waits() -> None:
    scheduler = scheduler_over(CountingBackend(), max_active=1)
    first, second = Collected(prompt(1, 5), GREEDY), Collected(prompt(2, 5), GREEDY)
    scheduler.submit(first.request)
    scheduler.submit(second.request)
    scheduler.step()
    second.request.cancel()
    scheduler.step()
    assert second.finish.reason == "cancelled"
    assert second.finish.stats.n_generated == 0
    assert not first.finished


def test_a_prompt_as_long_as_the_context_is_refused_with_numbers() -> None:
    scheduler = scheduler_over(CountingBackend(n_ctx=64))
    with pytest.raises(ContextOverflowError, match=r"64 tokens.*holds 64"):
        scheduler.submit(Collected(prompt(1, 64)).request)


@pytest.mark.parametrize("bad", [[], [-1], [N_VOCAB]])
def test_prompts_without_meaning_are_refused(bad: list[int]) -> None:
    with pytest.raises(UsageError):
        scheduler_over(CountingBackend()).submit(Collected(bad).request)


def test_an_answer_ends_where_the_context_does() -> None:
    one = Collected(prompt(1, 60), GenerateOptions(temperature=0.0))
    run_all(scheduler_over(CountingBackend(n_ctx=64)), one)
    assert one.finish.reason == "context"
    assert len(one.request.tokens) == 64


def test_the_queue_is_bounded() -> None:
    scheduler = scheduler_over(CountingBackend(), max_waiting=2)
    for n in range(2):
        scheduler.submit(Collected(prompt(n, 5)).request)
    with pytest.raises(OverloadedError, match="2 requests"):
        scheduler.submit(Collected(prompt(3, 5)).request)


def says(text: str, n_prompt: int) -> HashModel:
    """A model that answers any prompt of `n_prompt` tokens with these letters and then ends."""

    def following(ids: Sequence[int]) -> int | None:
        done = len(ids) - n_prompt
        if done < 0:
            return None
        return ord(text[done]) - ord("A") if done < len(text) else EOG

    return HashModel(following)


def test_the_end_of_generation_token_ends_the_answer_and_has_no_text() -> None:
    one = alone([1, 2, 3], GenerateOptions(temperature=0.0), says("HELLO", 3))
    assert (one.text, one.finish.reason, one.finish.stats.n_generated) == ("HELLO", "stop", 6)


def test_ignoring_the_end_of_generation_goes_on() -> None:
    one = alone([1], GenerateOptions(temperature=0.0, max_tokens=5, ignore_eos=True), says("HI", 1))
    assert (one.text, one.finish.reason, one.finish.stats.n_generated) == ("HI", "length", 5)


def test_a_stop_text_across_tokens_ends_the_answer_and_stays_out_of_it() -> None:
    one = alone([1], GenerateOptions(temperature=0.0, stop=("LOW",), logprobs=2), says("HELLOWORLD", 1))
    assert (one.text, one.finish.reason, one.finish.stop) == ("HEL", "stop", "LOW")
    tokens = [t for event in one.events[:-1] for t in event.tokens]  # type: ignore[union-attr]
    assert "".join(chr(ord("A") + t.id) for t in tokens) == "HEL"
    assert all(len(t.top) == 2 for t in tokens)


def test_no_tokens_wanted_reads_the_prompt_only() -> None:
    one = alone(prompt(1, 40), GenerateOptions(max_tokens=0))
    assert (one.text, one.finish.reason, one.finish.stats.n_generated) == ("", "length", 0)


def test_a_shared_beginning_is_not_read_again() -> None:
    backend = CountingBackend(n_ctx=256, cache_tokens=1024)
    scheduler = scheduler_over(backend)
    shared = prompt(1, 100)
    first = Collected([*shared, 1], GREEDY)
    run_all(scheduler, first)
    fed_before = sum(sum(step.values()) for step in backend.steps)
    second = Collected([*shared, 2, 3], GREEDY)
    run_all(scheduler, second)
    assert second.finish.stats.n_cached == 100
    assert sum(sum(step.values()) for step in backend.steps) - fed_before == 2 + 11
    assert second.text == alone([*shared, 2, 3], GREEDY).text


def test_a_conversation_goes_on_in_its_own_sequence() -> None:
    backend = CountingBackend(n_ctx=256)
    scheduler = scheduler_over(backend)
    history = prompt(1, 20)
    for turn in range(4):
        one = Collected(history, GREEDY)
        run_all(scheduler, one)
        if turn:
            assert one.finish.stats.n_cached == len(history) - 3 - 1
        assert one.text == alone(history, GREEDY).text
        history = [*one.request.tokens, 4, 5, 6]
    assert len(backend.sequences) == scheduler.n_cached_sequences == 1


def test_a_beginning_shared_with_an_answer_under_way_is_not_read_again() -> None:
    scheduler = scheduler_over(CountingBackend(cache_tokens=1024))
    first = Collected(prompt(1, 50), GREEDY)
    scheduler.submit(first.request)
    scheduler.step()
    second = Collected([*prompt(1, 50), 7], GREEDY)
    run_all(scheduler, second)
    assert second.finish.stats.n_cached == 50
    assert second.text == alone([*prompt(1, 50), 7], GREEDY).text


def test_recurrent_models_go_on_only_from_whole_sequences() -> None:
    scheduler = scheduler_over(CountingBackend(cache_tokens=1024, recurrent=True))
    first = Collected(prompt(1, 50), GREEDY)
    run_all(scheduler, first)
    cut = Collected([*prompt(1, 50), 7], GREEDY)
    run_all(scheduler, cut)
    assert cut.finish.stats.n_cached == 0
    whole = Collected([*first.request.tokens, 7], GREEDY)
    run_all(scheduler, whole)
    assert whole.finish.stats.n_cached == 61
    assert whole.text == alone([*first.request.tokens, 7], GREEDY).text


@pytest.mark.parametrize("options", [{}, {"recurrent": True}, {"kept_tokens": 10}])
def test_a_beginning_that_many_send_at_once_is_read_once(options: dict[str, Any]) -> None:
    backend = CountingBackend(cache_tokens=4096, batch=64, **options)
    scheduler = scheduler_over(backend, max_cached=8)
    shared = prompt(1, 120)
    several = [Collected([*shared, n, *prompt(n, 9)], GREEDY) for n in range(6)]
    other = Collected(prompt(99, 30), GREEDY)
    run_all(scheduler, *several, other)
    assert [one.finish.stats.n_cached for one in several] == [0] + [120] * 5
    n_computed = sum(sum(step.values()) for step in backend.steps)
    assert n_computed == 120 + 6 * 10 + 30 + 7 * 11
    for one in several:
        assert one.text == alone(one.request.prompt, GREEDY).text


@pytest.mark.parametrize("options", [{"recurrent": True}, {"kept_tokens": 10}])
def test_models_that_forget_go_on_from_the_end_of_a_prompt(options: dict[str, Any]) -> None:
    scheduler = scheduler_over(CountingBackend(cache_tokens=1024, **options))
    history = prompt(1, 100)
    run_all(scheduler, Collected(history, GREEDY))
    again, without_the_answer = Collected(history, GREEDY), Collected([*history, 7, 8], GREEDY)
    run_all(scheduler, again)
    assert again.finish.stats.n_cached == 99
    run_all(scheduler, without_the_answer)
    assert without_the_answer.finish.stats.n_cached == 99
    assert again.text == alone(history, GREEDY).text
    assert without_the_answer.text == alone([*history, 7, 8], GREEDY).text


@pytest.mark.parametrize("options", [{"recurrent": True}, {"kept_tokens": 10}])
def test_models_that_forget_go_on_from_where_prompts_parted(options: dict[str, Any]) -> None:
    scheduler = scheduler_over(CountingBackend(cache_tokens=2048, **options))
    cached = []
    for n in range(3):
        one = Collected([*prompt(1, 100), *prompt(n + 2, 50)], GREEDY)
        run_all(scheduler, one)
        cached.append(one.finish.stats.n_cached)
        assert one.text == alone(one.request.prompt, GREEDY).text
    assert cached == [0, 0, 100]


def test_parked_sequences_give_way_to_requests() -> None:
    backend = CountingBackend(n_ctx=128, cache_tokens=128, block_tokens=16)
    scheduler = scheduler_over(backend)
    for n in range(6):
        one = Collected(prompt(n, 60), GREEDY)
        run_all(scheduler, one)
        assert one.text == alone(prompt(n, 60), GREEDY, n_ctx=128).text
    scheduler.stop()
    assert backend.free_blocks == backend.n_blocks
    assert backend.sequences == ()


class BrokenModel(HashModel):
    """Fails for any sequence that holds token 13."""

    def logits(
        self, ids: Sequence[int], scales: Sequence[float] = (), positions: Sequence[int] | None = None, /
    ) -> Floats:
        if 13 in ids:
            raise BackendError("unlucky")
        return super().logits(ids, scales, positions)


def test_a_failing_backend_ends_the_requests_of_that_step_with_its_error() -> None:
    backend = CountingBackend(BrokenModel())
    scheduler = scheduler_over(backend)
    bad = Collected([13])
    run_all(scheduler, bad)
    assert bad.finish.reason == "error"
    assert isinstance(bad.finish.error, BackendError)
    assert backend.sequences == ()


def test_stopping_ends_everything_as_cancelled() -> None:
    backend = CountingBackend()
    scheduler = scheduler_over(backend, max_active=1)
    both = [Collected(prompt(n, 20)) for n in range(2)]
    for one in both:
        scheduler.submit(one.request)
    scheduler.step()
    scheduler.stop()
    assert [one.finish.reason for one in both] == ["cancelled", "cancelled"]
    assert backend.sequences == ()
    assert not scheduler.busy


def test_requests_with_other_adapters_share_steps_but_no_prefix() -> None:
    text = prompt(7, 100)
    settings: list[tuple[float, ...]] = [(), (1.0, 0.0), (0.0, 1.0), (0.5, 0.0)]
    scheduler = scheduler_over(CountingBackend(n_ctx=256, cache_tokens=1024, batch=64))
    first = [Collected(text, GREEDY, scales) for scales in settings]
    run_all(scheduler, *first)
    for one, scales in zip(first, settings, strict=True):
        assert one.request.tokens == alone(text, GREEDY, scales=scales).request.tokens
        assert one.finish.stats.n_cached == 0
    assert len({tuple(one.request.tokens) for one in first}) == len(settings)
    assert scheduler.n_cached_sequences == len(settings)

    # Each finds its own past again, and a new setting finds none.
    again = [Collected(text, GREEDY, scales) for scales in [*settings, (0.25, 0.0)]]
    run_all(scheduler, *again)
    assert [one.finish.stats.n_cached for one in again] == [99] * len(settings) + [0]
    for one, other in zip(again, first, strict=False):
        assert one.request.tokens == other.request.tokens


def test_a_step_asks_for_no_more_logits_than_its_requests_look_at() -> None:
    def asked(*options: GenerateOptions) -> set[int]:
        backend = CountingBackend()
        run_all(scheduler_over(backend), *(Collected(prompt(n, 4), one) for n, one in enumerate(options)))
        return set(backend.asked)

    assert asked(GREEDY) == {1}
    assert asked(GREEDY, GenerateOptions(temperature=1.0, top_k=9, max_tokens=12)) == {9}
    assert asked(GREEDY, GenerateOptions(temperature=0.0, repeat_penalty=1.1, max_tokens=12)) == {0}


def test_padding_past_the_vocabulary_is_never_chosen() -> None:
    """A matrix may have more rows than the vocabulary; here the last ten have the largest logits."""

    class Loud(HashModel):
        def logits(
            self, ids: Sequence[int], scales: Sequence[float] = (), positions: Sequence[int] | None = None, /
        ) -> Floats:
            rows = super().logits(ids, scales, positions)
            rows[:, -10:] += 100.0
            return rows

    sampled = GenerateOptions(temperature=1.5, top_k=5, seed=3, max_tokens=12)
    told = GenerateOptions(temperature=0.0, max_tokens=12, logprobs=10)
    requests = [Collected(prompt(n, 4), options) for n, options in enumerate((GREEDY, sampled, told))]
    backend = CountingBackend(Loud())
    scheduler = Scheduler(backend, frozenset({EOG}), n_vocab=N_VOCAB - 10)
    run_all(scheduler, *requests[:2])
    assert set(backend.asked) == {5 + 10}
    run_all(scheduler, requests[2])
    for one in requests:
        assert max(one.request.tokens[4:]) < N_VOCAB - 10
        assert one.request.n_generated >= 12
    deltas = [event for event in requests[2].events if isinstance(event, Delta)]
    assert max(token for delta in deltas for one in delta.tokens for token, _ in one.top) < N_VOCAB - 10
