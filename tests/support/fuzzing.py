"""Runs of generated cases in worker processes: a crash, a hang or an error that is not ours is a failure.

A fuzzer is a module with `TARGET = Target("tests.fuzz_x", prepare, use)` and `main(TARGET)`. Each case is
made from its seed alone, so that `--seed SEED --count 1` makes it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edgellm.errors import EdgeLLMError

CPU_LIMIT_S = 60
# A case without CPU time waits for something that does not come, or for a busy machine.
WALL_LIMIT_S = 1200
MAX_BYTES = 8 << 30
MAX_MESSAGE = 2000
_STEP = 100
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
"""AddressSanitizer is loaded: it takes terabytes of addresses, keeps freed memory, and is slower."""


class Target(NamedTuple):
    """A fuzzer: its module; prepare: originals made in a folder; use: outcome of a seed's case.

    use gets the originals, an empty folder and a random generator; errors of ours count as "refused".
    finish: ends what `prepare` started, once the cases of a process are used.
    """

    module: str
    prepare: Callable[[Path], Any]
    use: Callable[[Any, Path, random.Random], str]
    finish: Callable[[Any], object] = id


def outcome(target: Target, originals: Any, folder: Path, seed: int) -> str:
    """Outcome of one case; an error that is not the package's own is raised."""
    try:
        return target.use(originals, folder, random.Random(seed))
    except EdgeLLMError as error:
        check_message(error)
        return "refused"


def check_message(error: EdgeLLMError) -> None:
    """Fail unless an error's message is short and can be printed."""
    told = str(error)
    assert told.isprintable(), told
    assert len(told) < MAX_MESSAGE, told


def work(target: Target, folder: Path, first: int, count: int) -> int:
    """Use the cases of these seeds; 1, with the traceback, at the first error that is not ours."""
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    originals = target.prepare(folder)
    try:
        return _use_all(target, originals, folder, range(first, first + count))
    finally:
        target.finish(originals)


def _use_all(target: Target, originals: Any, folder: Path, seeds: range) -> int:
    # Traceback, then the signal's own end of the process.
    faulthandler.register(signal.SIGVTALRM, chain=True)
    for seed in seeds:
        print(seed, end=" ", flush=True)
        faulthandler.dump_traceback_later(WALL_LIMIT_S, exit=True)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S)
        case = _case(folder, seed)
        case.mkdir()
        try:
            print(outcome(target, originals, case, seed), flush=True)
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        shutil.rmtree(case)
    return 0


def _case(folder: Path, seed: int) -> Path:
    return folder / f"case-{seed}"


def fuzz(
    target: Target, folder: Path, first: int, count: int, keep: Path | None = None
) -> tuple[Counter[str], dict[int, str]]:
    """Number of cases by outcome, and the words of those that failed, by seed.

    keep: where the files of cases that failed go, each in a folder of its own.
    """
    outcomes: Counter[str] = Counter()
    failures: dict[int, str] = {}
    end = first + count
    while first < end:
        command = [sys.executable, "-m", target.module, "--work", str(folder)]
        command += ["--seed", str(first), "--count", str(end - first)]
        environment = os.environ | {"RUST_BACKTRACE": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        lines = [line.split() for line in done.stdout.splitlines()]
        outcomes.update(line[1] for line in lines if len(line) == 2)
        if done.returncode == 0:
            break
        if not lines:
            raise RuntimeError(done.stderr)
        first = int(lines[-1][0])
        failures[first] = f"exit status {done.returncode}\n{done.stderr[-4000:]}"
        if _case(folder, first).exists():
            if keep is not None:
                shutil.copytree(_case(folder, first), keep / f"{first}", dirs_exist_ok=True)
            shutil.rmtree(_case(folder, first))
        first += 1
    return outcomes, failures


def main(target: Target, description: str | None) -> int:
    """Run from the command line; 1 if a case failed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--count", type=int, default=1000, help="number of cases")
    parser.add_argument("--seconds", type=float, help="stop after this time, whatever the count")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="files of cases that fail go there")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        return work(target, arguments.work, arguments.seed, arguments.count)
    n_failures, total, start = 0, Counter[str](), time.monotonic()
    count = sys.maxsize if arguments.seconds is not None else arguments.count
    with tempfile.TemporaryDirectory() as name:
        first, end = arguments.seed, arguments.seed + count
        while first < end and time.monotonic() - start < (arguments.seconds or float("inf")):
            step = min(_STEP, end - first)
            outcomes, failures = fuzz(target, Path(name), first, step, arguments.keep)
            first += step
            total += outcomes
            n_failures += len(failures)
            for seed, told in failures.items():
                print(f"seed {seed}: {told}", flush=True)
            print(f"{total.total()} cases: {dict(total)}, {n_failures} failures", flush=True)
    return 1 if n_failures else 0
