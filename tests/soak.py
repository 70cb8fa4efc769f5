"""Run serve, bench and chat for hours, and report the longest step, errors and memory.

    python -m tests.soak --minutes 120 -m model.gguf

One server runs all the time, in rounds under the mixed load of bench/load.py. Beside it run, in turn, the
commands `edgellm bench` and `edgellm chat`, and an engine whose every step is timed. --busy N keeps N more
processes busy. Each round prints a line. The exit status is 1 if anything failed, answered in another way
than before, kept memory, or did not end: what takes longer than --limit seconds is killed, and is an error.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.load import Load, serving

N_TOKENS = 24
QUESTION = "Why is the sky blue?"
BUSY = "while True: pass"


@dataclass
class Report:
    """Counts of what ended, the longest of each, what failed, and the server's own memory at both ends."""

    ended: Counter[str] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def add(self, name: str, seconds: float) -> None:
        """Count an activity that has ended."""
        self.ended[name] += 1
        self.longest_s[name] = max(seconds, self.longest_s.get(name, 0.0))

    def __str__(self) -> str:
        ended = ", ".join(f"{name} {n}" for name, n in sorted(self.ended.items()))
        longest = ", ".join(f"{name} {s:.3f} s" for name, s in sorted(self.longest_s.items()))
        mib = f"{self.memory[0] / 2**20:.0f} to {self.memory[-1] / 2**20:.0f} MiB" if self.memory else "-"
        return f"ended: {ended}; longest: {longest}; server's memory: {mib}; errors: {len(self.errors)}"


class Soak:
    """The activities on one model; each answers as it did the first time."""

    def __init__(self, model: Path, *, threads: int | None, limit_s: float) -> None:
        self.report = Report()
        self._model = str(model)
        self._threads = [] if threads is None else ["-t", str(threads)]
        self._limit_s = limit_s
        self._answers: dict[str, str] = {}

    def round(self, url: str, pid: int, seed: int, seconds: float, n_clients: int) -> None:
        """Load the server for so long, and run everything else beside it."""
        until = time.monotonic() + seconds
        beside = threading.Thread(target=self._run_beside, args=(until,))
        beside.start()
        try:
            load = Load(url, pid, seed=seed).run(seconds, n_clients)
        except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
            self.report.errors.append(f"serve: {type(error).__name__}: {error}")
        else:
            self.report.errors += [f"serve: {fault}" for fault in load.faults()]
            self.report.ended["requests"] += sum(load.ends.values())
            steps = [value for name, value in load.metrics.items() if "step_seconds_max" in name]
            self.report.longest_s["step of serve"] = max(steps, default=0.0)
            self.report.memory.append(load.anonymous_bytes[1])
        beside.join()

    def _run_beside(self, until: float) -> None:
        activities: list[Callable[[], None]] = [self._engine, self._bench, self._chat]
        while time.monotonic() < until:
            for activity in activities:
                activity()

    def _bench(self) -> None:
        self._run("bench", ["bench", "-m", self._model, "-p", "64", "-n", "32", "-r", "2", "-o", "json"])

    def _chat(self) -> None:
        arguments = ["chat", self._model, "--temp", "0", "-n", str(N_TOKENS)]
        self._same("chat", self._run("chat", arguments, stdin=f"{QUESTION}\n/regen\n/bye\n"))

    def _engine(self) -> None:
        command = [sys.executable, "-m", "tests.soak", "--engine", "-m", self._model, *self._threads]
        out = self._run("engine", command=command)
        if found := re.search(r"^(\S+) s (.*)$", out, re.M):
            step = float(found[1])
            self.report.longest_s["step"] = max(step, self.report.longest_s.get("step", 0.0))
            self._same("engine", found[2])

    def _run(
        self,
        name: str,
        arguments: list[str] | None = None,
        *,
        command: list[str] | None = None,
        stdin: str = "",
    ) -> str:
        """Output of a process; a failure, or no end, is an error."""
        if command is None:
            command = [sys.executable, "-m", "edgellm", *(arguments or []), *self._threads, "--offline"]
        begin = time.monotonic()
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=self._limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            self.report.errors.append(f"{name}: no end within {self._limit_s:g} s")
            return ""
        if done.returncode:
            self.report.errors.append(f"{name}: exit status {done.returncode}: {done.stderr[-500:]}")
            return ""
        self.report.add(name, time.monotonic() - begin)
        return done.stdout

    def _same(self, name: str, answer: str) -> None:
        if answer and answer != self._answers.setdefault(name, answer):
            self.report.errors.append(f"{name}: answers {answer!r}, and before {self._answers[name]!r}")


def run_engine(model: Path, threads: int | None) -> None:
    """Print the longest of an engine's steps and the tokens that they gave."""
    import edgellm
    from edgellm.engine.options import GenerateOptions

    with edgellm.load(model, threads=threads, context=512) as loaded:
        longest, step = 0.0, loaded.scheduler.step

        def timed() -> None:
            nonlocal longest
            begin = time.perf_counter()
            step()
            longest = max(longest, time.perf_counter() - begin)

        loaded.scheduler.step = timed  # type: ignore[method-assign]
        options = GenerateOptions(max_tokens=200, temperature=0.0, ignore_eos=True)
        answer = loaded.generate(QUESTION, options)
        for _ in answer:
            pass
        print(f"{longest:.6f} s {json.dumps(answer.ids)}")


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Processes that do nothing but take time."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def soak(
    model: Path, seconds: float, *, round_s: float, threads: int | None, n_busy: int, limit_s: float
) -> Report:
    """Run rounds for so long; prints a line after each."""
    soaked = Soak(model, threads=threads, limit_s=limit_s)
    end = time.monotonic() + seconds
    options = [] if threads is None else ["-t", str(threads)]
    with busy(n_busy), serving(model, *options) as (url, pid):
        for seed in range(1 << 30):
            left = end - time.monotonic()
            if left <= 0 or (seed > 0 and left < round_s / 2):
                break
            soaked.round(url, pid, seed, min(round_s, left), n_clients=6)
            print(f"{time.strftime('%F %T')} round {seed}: {soaked.report}", flush=True)
            for error in soaked.report.errors[-5:]:
                print(f"  {error}", flush=True)
    return soaked.report


def main() -> int:
    """Run the soak and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--round-s", type=float, default=300.0)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        run_engine(given.model, given.threads)
        return 0
    report = soak(
        given.model,
        given.minutes * 60,
        round_s=given.round_s,
        threads=given.threads,
        n_busy=given.busy,
        limit_s=given.limit,
    )
    print(f"{given.minutes:g} min: {report}")
    for error in report.errors:
        print(f"ERROR: {error}", file=sys.stderr)
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
