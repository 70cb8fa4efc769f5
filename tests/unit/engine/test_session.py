"""A generation is an iterator of text that several threads and generations may use at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Event, Request
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import Generation, make_request
from edgellm.errors import BackendError, ContextOverflowError, UsageError
from tests.support.fake_model import EOG, N_VOCAB, CountingBackend, HashModel, Letters, alone

GREEDY = GenerateOptions(temperature=0.0, max_tokens=10)


Listener = Callable[[Event], None]


def make(prompt: list[int], options: GenerateOptions = GREEDY) -> Callable[[Listener], Request]:
    return lambda on_event: make_request(
        prompt, options, n_vocab=N_VOCAB, decoder=Letters(), on_event=on_event
    )


def scheduler(backend: CountingBackend | None = None) -> Scheduler:
    return Scheduler(backend or CountingBackend(), frozenset({EOG}))


def test_the_pieces_are_the_text_and_the_end_says_why() -> None:
    generation = Generation(scheduler(), make([1, 2, 3]))
    pieces = list(generation)
    assert all(pieces)
    assert "".join(pieces) == generation.text == alone([1, 2, 3], GREEDY).text
    assert generation.finish_reason == "length"
    assert generation.stats is not None
    assert generation.stats.n_prompt == 3
    assert generation.stats.n_generated == len(generation.ids) == 10
    assert list(generation) == []


def test_two_generations_in_turn_share_the_steps() -> None:
    backend = CountingBackend()
    shared = scheduler(backend)
    first, second = Generation(shared, make([1])), Generation(shared, make([2]))
    both = list(zip(first, second, strict=True))
    assert "".join(a for a, _ in both) == alone([1], GREEDY).text
    assert "".join(b for _, b in both) == alone([2], GREEDY).text
    assert len(backend.steps) <= 11


def test_threads_share_the_steps() -> None:
    shared = scheduler(CountingBackend(cache_tokens=1024))
    texts: dict[int, str] = {}

    def run(n: int) -> None:
        texts[n] = "".join(Generation(shared, make([n, n])))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {n: alone([n, n], GREEDY).text for n in range(6)}


def test_leaving_the_block_cancels() -> None:
    backend = CountingBackend()
    shared = scheduler(backend)
    with Generation(shared, make([1])) as generation:
        first = next(generation)
    assert generation.text == first
    assert str(generation.finish_reason) == "cancelled"
    assert not shared.busy


def test_a_generation_that_is_dropped_is_cancelled() -> None:
    shared = scheduler()
    generation = Generation(shared, make([1]))
    next(generation)
    del generation
    shared.step()
    assert not shared.busy


def test_an_error_of_the_engine_is_raised_where_the_text_is_awaited() -> None:
    class Broken(HashModel):
        def logits(self, ids, scales=(), positions=None, /):  # type: ignore[no-untyped-def]
            raise BackendError("broken")

    with pytest.raises(BackendError, match="broken"):
        list(Generation(scheduler(CountingBackend(Broken())), make([1])))


def test_a_prompt_that_is_too_long_is_refused_at_once() -> None:
    with pytest.raises(ContextOverflowError):
        Generation(scheduler(CountingBackend(n_ctx=32)), make([1] * 32))


def test_a_bias_for_a_token_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=f"token {N_VOCAB}"):
        make([1], GenerateOptions(logit_bias={N_VOCAB: 1.0}))(lambda event: None)
