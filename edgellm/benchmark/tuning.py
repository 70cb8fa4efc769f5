"""Tuning: the threads, CPUs and instruction set with which a model answers fastest on this device."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.benchmark.runner import Runner, Trial, cache_tokens
from edgellm.device.cores import allowed_cpus, fast_cores, keep_to_cpus, read_cores
from edgellm.device.isa import read_isa
from edgellm.engine.load_options import LoadOptions

PROMPT, ANSWER = Trial(128, 0), Trial(0, 24)
# A setting must win by this share, again in the last comparison, to replace the defaults: less is noise.
LEAST_GAIN = 0.03
# A setting whose prompts are slower than this share of the default's is not taken.
_PROMPT_SHARE = 0.97
_ROUNDS = 5
_FINAL_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to try; cpus: () for all that this process may use."""

    threads: int
    isa: str
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of prompts and of answers, medians."""

    prompt: float
    answer: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """Outcome of a search: the settings to use, their speed, and that of the defaults, measured in turn."""

    best: Candidate
    speed: Speed
    default: Speed

    @property
    def gain(self) -> float:
        """Share by which answers are faster than with the defaults; 0 if the defaults are kept."""
        return self.speed.answer / self.default.answer - 1


Measure = Callable[[Candidate, int], Speed]


def candidates() -> list[Candidate]:
    """Settings that may be faster than the defaults, which come first."""
    cores, isas = read_cores(), read_isa()
    assert isas is not None
    default = Candidate(cores.default_threads, isas.chosen)
    allowed, fast = allowed_cpus(), [core[0] for core in fast_cores(allowed_cpus())]
    counts = {1, default.threads - 1, default.threads + 1, len(fast), len(cores.cores), len(allowed)}
    found = [default]
    found += [replace(default, threads=n) for n in sorted(counts) if 1 <= n <= len(allowed)]
    if sys.platform == "linux" and len(fast) < len(cores.cores):
        found += [Candidate(n, default.isa, tuple(fast)) for n in sorted({len(fast), max(1, len(fast) - 1)})]
    stronger = isas.usable[-3:]
    found += [replace(default, isa=isa) for isa in stronger if isa != "scalar"]
    return list(dict.fromkeys(found))


def tune(tried: Sequence[Candidate], measure: Measure, say: Callable[[str], None]) -> Tuned:
    """The fastest candidate, or the first one if none is faster by LEAST_GAIN.

    measure: speed of a candidate by so many repetitions. The winner and the defaults are measured once more
    in turn, so that a moment's luck decides nothing.
    """
    default = tried[0]
    speeds: dict[Candidate, Speed] = {}
    for candidate in tried:
        speeds[candidate] = measure(candidate, _ROUNDS)
        say(
            f"{_words(candidate)}: {speeds[candidate].answer:.1f} tok/s, "
            f"prompts {speeds[candidate].prompt:.0f}"
        )
    able = [c for c in tried if speeds[c].prompt >= _PROMPT_SHARE * speeds[default].prompt]
    best = max(able, key=lambda candidate: speeds[candidate].answer)
    if speeds[best].answer < (1 + LEAST_GAIN) * speeds[default].answer:
        return Tuned(default, speeds[default], speeds[default])
    # Combinations of what was tried apart: the best instruction set with the best number of threads.
    isa = max(
        (c for c in able if c.threads == default.threads and not c.cpus), key=lambda c: speeds[c].answer
    ).isa
    both = replace(best, isa=isa)
    if both not in speeds:
        speeds[both] = measure(both, _ROUNDS)
        say(f"{_words(both)}: {speeds[both].answer:.1f} tok/s, prompts {speeds[both].prompt:.0f}")
        prompts_suffer = speeds[both].prompt < _PROMPT_SHARE * speeds[default].prompt
        if speeds[both].answer > speeds[best].answer and not prompts_suffer:
            best = both
    return _final(best, default, measure)


def _final(best: Candidate, default: Candidate, measure: Measure) -> Tuned:
    pairs = [(measure(best, 1), measure(default, 1)) for _ in range(_FINAL_ROUNDS)]
    ratio = statistics.median(a.answer / b.answer for a, b in pairs)
    prompts = statistics.median(a.prompt / b.prompt for a, b in pairs)
    of_best, of_default = (
        Speed(statistics.median(s.prompt for s in one), statistics.median(s.answer for s in one))
        for one in zip(*pairs, strict=True)
    )
    if ratio < 1 + LEAST_GAIN or prompts < _PROMPT_SHARE:
        return Tuned(default, of_default, of_default)
    return Tuned(best, of_best, of_default)


class Bench:
    """Measures candidates on a model; each is loaded once and stays while there is memory for two."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: dict[Candidate, Runner] = {}
        self._allowed = tuple(allowed_cpus())

    def measure(self, candidate: Candidate, repetitions: int) -> Speed:
        """Median speeds of a candidate, on its CPUs, which the engine's threads inherit."""
        if candidate.cpus:
            keep_to_cpus(candidate.cpus)
        try:
            runner = self._runner(candidate)
            prompt, answer = (
                statistics.median(
                    test.n_tokens / s for s in runner.run(test, repetitions, warmup=warm).seconds
                )
                for test, warm in ((PROMPT, True), (ANSWER, False))
            )
        finally:
            if candidate.cpus:
                keep_to_cpus(self._allowed)
        return Speed(prompt, answer)

    def close(self) -> None:
        """Free the models."""
        for runner in self._loaded.values():
            runner.close()
        self._loaded = {}

    def _runner(self, candidate: Candidate) -> Runner:
        if candidate not in self._loaded:
            while len(self._loaded) > 1:
                self._loaded.pop(next(iter(self._loaded))).close()
            tests = (PROMPT, ANSWER)
            options = LoadOptions(
                threads=candidate.threads,
                isa=candidate.isa,
                context=max(test.length for test in tests),
                cache_tokens=cache_tokens(tests),
            )
            self._loaded[candidate] = Runner(self._path, options, tests)
        return self._loaded[candidate]


def _words(candidate: Candidate) -> str:
    cpus = f" on CPUs {','.join(map(str, candidate.cpus))}" if candidate.cpus else ""
    threads = "1 thread" if candidate.threads == 1 else f"{candidate.threads} threads"
    return f"{threads}{cpus}, {candidate.isa}"
