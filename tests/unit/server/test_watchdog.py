"""Code that keeps the interpreter's lock: the clock of CPU time sees it, and nothing else does."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="needs the clock of CPU time")

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


def test_code_that_keeps_the_lock_ends_the_process() -> None:
    done = run("lock")
    assert done.stdout == "went on\n"
    assert done.returncode == -signal.SIGPROF
    assert "in _watch" in done.stderr
    assert "in match" in done.stderr


def test_much_cpu_time_without_the_lock_does_not() -> None:
    done = run("none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\nended\n", "")
