"""Cold start: from a fresh process to the first token, as a user starts it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edgellm.device.memory import peak_memory
from edgellm.errors import BackendError

_PROMPT = "The capital of France is"
_ANSWER_TOKENS = 32
# Tokens that the prompt in a chat template and its answer may take.
_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Median seconds from the start of the process to the first character, and its peak memory.

    first_s: seconds of the first start. From the second start on the file is in the page cache.
    """

    median_s: float
    first_s: float
    peak_bytes: int | None


def cold_start_context(context: int, trained: int) -> int:
    """Context of the starts in a benchmark of `context` tokens: at most 2048, and enough for their answer."""
    return min(max(context, _CONTEXT), 2048, trained)


def cold_start(model: Path, *, threads: int, context: int, repetitions: int) -> ColdStart:
    """Start `edgellm run` on a short prompt `repetitions` times; BackendError if it fails."""
    seconds: list[float] = []
    peaks: list[int] = []
    for _ in range(repetitions):
        elapsed, peak = _start(model, threads, context)
        seconds.append(elapsed)
        if peak is not None:
            peaks.append(peak)
    return ColdStart(statistics.median(seconds), seconds[0], max(peaks, default=None))


def _start(model: Path, threads: int, context: int) -> tuple[float, int | None]:
    command = [
        sys.executable,
        "-m",
        "edgellm",
        "run",
        "-m",
        str(model),
        "--offline",
        "--temp",
        "0",
        "-n",
        str(_ANSWER_TOKENS),
    ]
    command += ["-t", str(threads), "-c", str(context), _PROMPT]
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        first = run.stdout.read(1)
        seconds = time.perf_counter() - begin
        # Read while the process still runs: the figure of an ended one includes its parent.
        peak = peak_memory(pid=run.pid)
        run.stdout.read()
        message = run.stderr.read().decode(errors="replace").strip()
    if run.returncode != 0 or not first:
        raise BackendError(f"edgellm run, started to time it, failed with {run.returncode}: {message}")
    return seconds, peak
