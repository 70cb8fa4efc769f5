"""A forked child that uses its parent's model gets an error, and never waits for threads it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks need a POSIX system")

PARENT = """
import os, sys
import edgellm
from edgellm.engine.options import GenerateOptions
from edgellm.engine.runner import EngineThread
from edgellm.errors import BackendError

model = edgellm.load(sys.argv[1], threads=2)
options = GenerateOptions(max_tokens=4, temperature=0.0)
before = model.generate("a", options)
runner = EngineThread(model.scheduler)
held = sys.argv[3:] == ["held"]
if held:
    model.scheduler._step_lock.acquire()  # as by a thread that is in a step
child = os.fork()
if child == 0:
    uses = {
        "generate": lambda: list(model.generate("a", options)),
        "go_on": lambda: next(before),
        "logits": lambda: model.logits([1, 2, 3]),
        "job": lambda: runner.call(model.close),
    }
    try:
        uses[sys.argv[2]]()
    except BackendError as error:
        print(error, flush=True)
    runner.stop()
    model.close()
    sys.exit(0)
if held:
    model.scheduler._step_lock.release()
print(os.waitpid(child, 0)[1], flush=True)
for _ in before:
    pass
print(before.finish_reason)
runner.stop()
"""


@pytest.mark.parametrize("lock", ["free", "held"])
@pytest.mark.parametrize("use", ["generate", "go_on", "logits", "job"])
def test_a_forked_child_gets_an_error_and_its_parent_goes_on(tmp_path: Path, use: str, lock: str) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARENT, model, use, lock],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    message, status, reason = done.stdout.splitlines()
    assert (status, reason) == ("0", "length"), done.stderr
    assert "fork" in message
    assert "spawn" in message
