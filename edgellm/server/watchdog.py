"""Ends a server whose engine makes no progress, so that what supervises it starts it anew."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from edgellm.server.models import ModelManager

log = logging.getLogger("edgellm.server")

EXIT_STALLED = 70  # EX_SOFTWARE of sysexits.h
TICK_S = 1.0
LEAST_CPU_S = 30.0
STDERR = 2


class Watchdog:
    """Looks at the steps of all engines, on a thread of its own.

    timeout_s: a step that takes longer has stalled (infinite: nothing is watched). Then the log gets the
    place of every thread, and `on_stall` is called; at once if an engine's thread has ended by an error. Time
    in which the process itself was stopped does not count. Code that keeps the interpreter's lock stops this
    thread, too: after timeout_s of CPU time, but at least least_cpu_s, without a look of it, a signal writes
    the place of every thread and ends the process.
    """

    def __init__(
        self,
        models: ModelManager,
        timeout_s: float,
        on_stall: Callable[[], None],
        least_cpu_s: float = LEAST_CPU_S,
    ) -> None:
        self._models = models
        self._alarm = _Alarm(max(timeout_s, least_cpu_s))
        self._timeout_s = timeout_s
        self._on_stall = on_stall
        self._tick_s = min(TICK_S, timeout_s / 4)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if timeout_s != float("inf"):
            self._thread = threading.Thread(target=self._watch, name="edgellm-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._thread is not None:
            self._alarm.install()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._alarm.remove()

    def _watch(self) -> None:
        taken: dict[str, tuple[float, float]] = {}  # model: when its step began, seconds seen since
        last = time.monotonic()
        while not self._ended.wait(self._tick_s):
            self._alarm.postpone()
            now = time.monotonic()
            passed, last = min(now - last, 2 * self._tick_s), now
            for source in self._models.sources:
                runner = None if source.loaded is None else source.loaded.runner
                if runner is not None and runner.error is not None:
                    log.critical("the engine of %s failed: %r; the server ends", source.name, runner.error)
                    self._on_stall()
                    return
                began = None if runner is None else runner.step_began
                if began is None:
                    taken.pop(source.name, None)
                    continue
                before, seen = taken.get(source.name, (began, 0.0))
                seen = seen + passed if before == began else 0.0
                taken[source.name] = (began, seen)
                if seen > self._timeout_s:
                    self._report(source.name)
                    self._on_stall()
                    return

    def _report(self, name: str) -> None:
        log.critical(
            "a step of %s has not ended after %g s (--step-timeout); the server ends", name, self._timeout_s
        )
        for line in (*python_threads(), *native_threads()):
            log.critical("%s", line)


class _Alarm:
    """SIGPROF after so much CPU time of the process, unless it is postponed; it needs no lock of Python's.

    Its handler writes the calls of each thread of Python to standard error; then the process ends by it.
    """

    def __init__(self, cpu_s: float) -> None:
        self._cpu_s = cpu_s
        self._installed = False

    def install(self) -> None:
        """Start the clock, if the system has it and nobody else uses it."""
        if sys.platform != "win32" and signal.getsignal(signal.SIGPROF) is signal.SIG_DFL:
            faulthandler.register(signal.SIGPROF, STDERR, all_threads=True, chain=True)
            self._installed = True
            self.postpone()

    def postpone(self) -> None:
        """Start the clock anew."""
        if sys.platform != "win32" and self._installed:
            signal.setitimer(signal.ITIMER_PROF, self._cpu_s)

    def remove(self) -> None:
        """Stop the clock."""
        if sys.platform != "win32" and self._installed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.unregister(signal.SIGPROF)
            self._installed = False


def python_threads() -> Iterator[str]:
    """The calls that each thread of Python is in, the innermost first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        yield from file.read().splitlines()


def native_threads() -> Iterator[str]:
    """State, place in the kernel, and CPU time of each thread, from proc(5) where there is one."""
    folder = Path("/proc/self/task")
    if sys.platform == "win32" or not folder.is_dir():
        return
    ticks = os.sysconf("SC_CLK_TCK")
    for task in sorted(folder.iterdir(), key=lambda task: int(task.name)):
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            comm, wchan = (task / "comm").read_text().strip(), (task / "wchan").read_text().strip()
        except OSError:
            continue  # it has ended
        cpu_s = (int(fields[11]) + int(fields[12])) / ticks
        yield f"thread {task.name} {comm}: state {fields[0]}, in {wchan or '-'}, {cpu_s:.2f} s of CPU"
