"""Thread that runs a scheduler, for callers that must not block, such as the HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from edgellm.engine.process import OwnProcess
from edgellm.engine.request import Request
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import OverloadedError

T = TypeVar("T")

# Pause between two pieces saved while idle.
SAVE_S = 0.01
# An idle thread looks for work this often without being woken: no lost wake-up costs more.
LOOK_S = 0.05


class EngineThread:
    """Steps a scheduler while it has work; requests and jobs come from any thread.

    Events are delivered on this thread, so a listener must pass them on and return. `post` passes calls on to
    an event loop.
    """

    def __init__(self, scheduler: Scheduler, name: str = "edgellm-engine") -> None:
        self._scheduler = scheduler
        self._process = OwnProcess()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._posted: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        self._stopping = False
        self._step_began: float | None = None
        self.longest_step_s = 0.0
        self.error: BaseException | None = None  # an unforeseen one, which has ended the thread
        self._gate = threading.Lock()  # held so that nothing is queued after the thread's last look
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def step_began(self) -> float | None:
        """When the step, or job, under way began, on the monotonic clock; None if there is none."""
        return self._step_began

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    def submit(self, request: Request) -> None:
        """Queue a request; raises as Scheduler.submit, and OverloadedError once the thread is stopping."""
        self._process.check()
        with self._gate:
            self._check_open()
            self._scheduler.submit(request)
        self._wake.set()

    def cancel(self, request: Request) -> None:
        """End a request before the next step; one that has ended already is left alone."""
        request.cancel()
        self._wake.set()

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Run a job between two steps; raises OverloadedError once the thread is stopping."""
        self._process.check()
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        with self._gate:
            self._check_open()
            self._jobs.put(run)
        self._wake.set()
        return future

    def post(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        """Make a call on an event loop, for listeners; the loop is woken once for all calls of a step.

        Otherwise the loop would run after every token while the engine waits.
        """
        self._posted.setdefault(loop, []).append(call)

    def stop(self) -> None:
        """Cancel everything, run the jobs that wait, and end the thread."""
        if self._process.forked:
            return
        with self._gate:
            self._stopping = True
        self._wake.set()
        self._thread.join()

    def _check_open(self) -> None:
        if self._stopping:
            raise OverloadedError("The model is being unloaded; try again.")

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self.error = error
            raise

    def _serve(self) -> None:
        while not self._stopping:
            self._wake.wait(SAVE_S if self._scheduler.save_some() else LOOK_S)
            self._wake.clear()
            while not self._stopping and (self._scheduler.busy or not self._jobs.empty()):
                self._run_jobs()
                with self._timed():
                    self._scheduler.step()
                self._make_calls()
        self._scheduler.stop()
        self._make_calls()
        self._run_jobs()

    def _make_calls(self) -> None:
        posted, self._posted = self._posted, {}
        for loop, calls in posted.items():
            # The loop may be gone when the engine ends its last requests.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_call_all, calls)

    def _run_jobs(self) -> None:
        while not self._jobs.empty():
            with self._timed():
                self._jobs.get()()

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Times a step or a job; if it raises, the thread ends with it."""
        begin = self._step_began = time.monotonic()
        yield
        self._step_began = None
        self.longest_step_s = max(self.longest_step_s, time.monotonic() - begin)


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
