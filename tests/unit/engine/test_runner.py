"""The engine thread serves many callers at once and ends cleanly."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Event, Finish, Request
from edgellm.engine.runner import EngineThread
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import make_request
from edgellm.errors import OverloadedError
from tests.support.fake_model import EOG, N_VOCAB, CountingBackend, Letters, alone

GREEDY = GenerateOptions(temperature=0.0, max_tokens=12)


class Caller:
    def __init__(self, prompt: list[int], options: GenerateOptions = GREEDY) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.request: Request = make_request(
            prompt, options, n_vocab=N_VOCAB, decoder=Letters(), on_event=self.events.put
        )

    def result(self) -> tuple[str, Finish]:
        text = ""
        while isinstance(event := self.events.get(timeout=30), Delta):
            text += event.text
        return text, event


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(cache_tokens=2048)


def test_requests_of_many_threads_get_their_own_answers(backend: CountingBackend) -> None:
    runner = EngineThread(Scheduler(backend, frozenset({EOG})))
    results: dict[int, str] = {}

    def ask(n: int) -> None:
        caller = Caller([n] * (n + 1))
        runner.submit(caller.request)
        results[n] = caller.result()[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runner.stop()
    assert results == {n: alone([n] * (n + 1), GREEDY).text for n in range(12)}
    assert not backend.sequences


def test_cancelling_one_request_leaves_the_others_alone() -> None:
    long = CountingBackend(n_ctx=1 << 20, cache_tokens=1 << 20)  # no answer fills it before it is cancelled
    runner = EngineThread(Scheduler(long, frozenset({EOG})))
    endless, other = Caller([1], GenerateOptions(temperature=0.0)), Caller([2])
    runner.submit(endless.request)
    runner.submit(other.request)
    assert isinstance(endless.events.get(timeout=30), Delta)
    runner.cancel(endless.request)
    assert endless.result()[1].reason == "cancelled"
    assert other.result()[0] == alone([2], GREEDY).text
    runner.stop()


def test_jobs_run_between_steps_and_raise_where_they_are_awaited() -> None:
    endless = CountingBackend(n_ctx=1 << 20, cache_tokens=1 << 20)  # no answer fills it meanwhile
    runner = EngineThread(Scheduler(endless, frozenset({EOG})))
    caller = Caller([1], GenerateOptions(temperature=0.0))
    runner.submit(caller.request)
    assert runner.call(lambda: threading.current_thread().name).result(timeout=30) == "edgellm-engine"
    with pytest.raises(ZeroDivisionError):
        runner.call(lambda: 1 // 0).result(timeout=30)
    runner.stop()
    assert caller.result()[1].reason == "cancelled"


def test_stopping_answers_those_who_wait(backend: CountingBackend) -> None:
    runner = EngineThread(Scheduler(backend, frozenset({EOG}), max_active=1))
    callers = [Caller([n], GenerateOptions(temperature=0.0)) for n in range(3)]
    for caller in callers:
        runner.submit(caller.request)
    runner.stop()
    assert {caller.result()[1].reason for caller in callers} <= {"cancelled", "context"}
    assert not backend.sequences
    with pytest.raises(OverloadedError):
        runner.submit(Caller([1]).request)
    with pytest.raises(OverloadedError):
        runner.call(lambda: 1)


def test_an_event_loop_is_woken_once_a_step_for_all_requests(
    backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = EngineThread(Scheduler(backend, frozenset({EOG})))
    n_wakes = 0
    counts: dict[int, int] = {}

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe
        ended = asyncio.Event()

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal n_wakes
            n_wakes += 1
            return wake(*arguments, **options)

        def take(n: int, event: Event) -> None:
            counts[n] = counts.get(n, 0) + 1
            if isinstance(event, Finish):
                finished.add(n)
                if len(finished) == 4:
                    ended.set()

        finished: set[int] = set()

        def listener(n: int) -> Callable[[Event], None]:
            return lambda event: runner.post(loop, partial(take, n, event))

        def submit_all() -> None:
            for request in requests:
                runner.scheduler.submit(request)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        requests = []
        for n in range(4):
            caller = Caller([n] * 5)
            caller.request.on_event = listener(n)
            requests.append(caller.request)
        # All of them are queued before the first step.
        await asyncio.wrap_future(runner.call(submit_all))
        n_before = n_wakes
        await asyncio.wait_for(ended.wait(), 30)
        assert n_wakes - n_before <= 12 + 1

    asyncio.run(ask())
    runner.stop()
    assert set(counts.values()) == {12 + 1}
