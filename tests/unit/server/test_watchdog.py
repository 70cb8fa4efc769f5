"""Engines that failed, and code that keeps the interpreter's lock, which the clock of CPU time sees."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgellm.engine.runner import EngineThread
from edgellm.server.watchdog import Watchdog

needs_clock = pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="needs the clock of CPU time")


class FailingScheduler:
    busy = True

    def save_some(self) -> bool:
        return False

    def step(self) -> None:
        raise ZeroDivisionError("no such step")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_failed_ends_the_server_at_once(caplog: pytest.LogCaptureFixture) -> None:
    runner = EngineThread(cast(Any, FailingScheduler()))
    models = SimpleNamespace(sources=[SimpleNamespace(name="tiny", loaded=SimpleNamespace(runner=runner))])
    ended = threading.Event()
    with caplog.at_level(logging.CRITICAL), Watchdog(cast(Any, models), 600.0, ended.set):
        assert ended.wait(60)
    assert isinstance(runner.error, ZeroDivisionError)
    assert "the engine of tiny failed: ZeroDivisionError('no such step')" in caplog.text


SCRIPT = """
import re, sys, threading, time
from edgellm.engine.load_options import LoadOptions
from edgellm.server.models import ModelManager
from edgellm.server.watchdog import Watchdog
with Watchdog(ModelManager([], LoadOptions()), 0.4, lambda: None, least_cpu_s=1.0):
    end = time.process_time() + 2.0
    while time.process_time() < end:
        pass
    print("went on", flush=True)
    if sys.argv[1] == "lock":
        re.match("(a+)+$", "a" * 50 + "b")
print("ended", flush=True)
"""


def run(kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, timeout=200, check=False
    )


@needs_clock
def test_code_that_keeps_the_lock_ends_the_process() -> None:
    done = run("lock")
    assert done.stdout == "went on\n"
    assert done.returncode == -signal.SIGPROF
    assert "in _watch" in done.stderr
    assert "in match" in done.stderr


@needs_clock
def test_much_cpu_time_without_the_lock_does_not() -> None:
    done = run("none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\nended\n", "")
