"""Runner of benchmarks: one model at one thread count, with times of prompts, answers, and answers at a
depth.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgellm.backends.base import Backend, Ints
from edgellm.benchmark.work import Work, count_work
from edgellm.device.memory import peak_memory, reset_peak_memory
from edgellm.device.sensors import EnergyMeter, Reading, read_sensors, throttled_between
from edgellm.engine.load_options import DEFAULT_DRAFT_MAX, LoadOptions
from edgellm.engine.loading import load_backend, load_draft
from edgellm.engine.options import GenerateOptions
from edgellm.engine.planning import LoadPlan, plan
from edgellm.engine.request import Event, Finish, Request
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import make_request
from edgellm.errors import UsageError
from edgellm.gguf.reader import GGUFFile
from edgellm.program.exported import is_exported, stored_sizes

_SPARE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """One test: after `n_depth` untimed tokens, `n_prompt` tokens in one go, then `n_gen` one by one.

    Each of `n_parallel` sequences does all of it at the same time.
    """

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_parallel: int = 1

    @property
    def length(self) -> int:
        """Tokens of one sequence at its end."""
        return max(self.n_depth, 0 if self.n_prompt else 1) + self.n_prompt + self.n_gen

    @property
    def n_tokens(self) -> int:
        """Number of timed tokens."""
        return (self.n_prompt + self.n_gen) * self.n_parallel

    @property
    def name(self) -> str:
        """Name in the form of llama-bench: pp512, tg128, pp512+tg128, `x 8` for sequences, `@ d512` for
        depth.
        """
        parts = [f"{kind}{n}" for kind, n in (("pp", self.n_prompt), ("tg", self.n_gen)) if n]
        name = "+".join(parts)
        if self.n_parallel > 1:
            name += f" x {self.n_parallel}"
        return f"{name} @ d{self.n_depth}" if self.n_depth else name


@dataclass(slots=True)
class Result:
    """Seconds of each repetition of a test, and counters.

    n_accepted: draft tokens, of n_drafted, that were accepted in the last repetition. unread_bytes: bytes of
    weights that the search for the likeliest tokens did not read. unsteady: repetitions had other tokens.
    """

    test: Trial
    seconds: list[float] = field(default_factory=list)
    tokens_hash: str = ""
    n_drafted: int = 0
    n_accepted: int = 0
    unread_bytes: int = 0
    unsteady: bool = False
    energy_j: float | None = None
    energy_source: str | None = None
    throttled: bool | None = None
    sensors: Reading | None = None
    test_time: float = 0.0


class Runner:
    """A loaded model whose steps are timed: only the engine and the search for the largest logit.

    With a `draft` model or `draft_max` in the options, the scheduler makes the answers with speculative
    decoding. Raises UsageError if the tests do not fit the context or speculative decoding is not possible,
    and as loading does.
    """

    def __init__(self, path: Path, options: LoadOptions, tests: Sequence[Trial]) -> None:
        reset_peak_memory()
        self.file = GGUFFile.open(path)
        try:
            self.plan: LoadPlan = plan(self.file, options)
            self._draft_max = options.draft_max or (0 if options.draft is None else DEFAULT_DRAFT_MAX)
            self._check(tests)
            begin = time.perf_counter()
            self.backend: Backend
            self.backend, self.memory = load_backend(self.plan)
            self.load_s = time.perf_counter() - begin
            self._draft = load_draft(self.plan)
        except BaseException:
            self.file.close()
            raise
        self.sizes = self._weight_sizes()
        self.work: Work = count_work(self.plan.program, self.sizes, self.plan.kv_type)
        # Equal on every machine and in every run.
        random = np.random.default_rng(0)
        longest = max(test.length for test in tests)
        self._ids: Ints = random.integers(0, self.plan.program.n_vocab, longest, np.int32)

    def _weight_sizes(self) -> dict[str, int]:
        """Bytes of each weight as it is stored."""
        if is_exported(self.file.metadata):
            return stored_sizes(self.file.metadata)
        return {name: info.n_bytes for name, info in self.file.tensors.items()}

    def _check(self, tests: Sequence[Trial]) -> None:
        program = self.plan.program
        if program.logits is None:
            raise UsageError(
                f"{self.file.path}: {program.family} models make embeddings and generate nothing to time; "
                "benchmark a generative model."
            )
        if self._draft_max and self.plan.no_drafts:
            raise UsageError(
                f"{self.file.path}: speculative decoding is not possible: {self.plan.no_drafts}."
            )
        for test in tests:
            if self._draft_max and test.n_prompt and test.n_gen:
                raise UsageError(
                    f"{test.name} times a prompt and an answer together, and only answers alone can be timed "
                    "with speculative decoding; use -n, and -d for the depth before it."
                )
            if test.length > self.plan.n_ctx:
                raise UsageError(
                    f"{test.name} needs {test.length} tokens and the context has {self.plan.n_ctx}; "
                    "ask for fewer tokens or a larger context (-c)."
                )
            if test.n_parallel > self.plan.n_ctx:
                raise UsageError(
                    f"{test.n_parallel} sequences at once exceed the context of {self.plan.n_ctx} tokens; "
                    "ask for a smaller batch (-b)."
                )

    def run(self, test: Trial, repetitions: int, *, warmup: bool = True) -> Result:
        """Time a test `repetitions` times, after one run that does not count."""
        if warmup:
            self._once(Trial(min(test.n_prompt, 64), min(test.n_gen, 8), 0, test.n_parallel))
        result = Result(test, test_time=time.time())
        meter = EnergyMeter()
        energy: list[float] = []
        before = read_sensors()
        for _ in range(repetitions):
            unread = self.backend.unread_bytes
            if self._draft_max and test.n_gen:
                seconds, joules, digest = self._once_drafting(test, meter, result)
            else:
                seconds, joules, digest = self._once(test, meter)
            result.seconds.append(seconds)
            result.unsteady |= bool(result.seconds[:-1]) and digest != result.tokens_hash
            result.tokens_hash = digest
            result.unread_bytes = self.backend.unread_bytes - unread
            if joules is not None:
                energy.append(joules)
        result.sensors = read_sensors()
        result.throttled = throttled_between(before, result.sensors)
        if len(energy) == repetitions:
            result.energy_j, result.energy_source = sum(energy) / len(energy), meter.source
        return result

    def sustain(self, test: Trial, seconds: float) -> Iterator[float]:
        """Repeat a test until `seconds` are over, and yield the tokens a second of each time."""
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            taken, _, _ = self._once(test)
            yield test.n_tokens / taken

    def same_tokens(self, test: Trial, result: Result) -> bool | None:
        """True if a prompt of all tokens has the same likeliest ones as the answer that was timed.

        The engine computes the answer token by token, and the prompt many at a time: a fault of the machine
        or of a kernel shows as a difference. None where nothing was generated, or where another engine, whose
        results depend on the batch, did it.
        """
        if not test.n_gen or self.plan.backend != "native":
            return None
        backend = self.backend
        start = max(test.n_depth, 0 if test.n_prompt else 1) + test.n_prompt
        sequences = [backend.open_sequence() for _ in range(test.n_parallel)]
        try:
            chosen = self._generate(sequences, self._feed(sequences, self._ids[:start]), test.n_gen)
        finally:
            for sequence in sequences:
                backend.close_sequence(sequence)
        tokens = [*self._ids[:start].tolist(), *chosen[:-1, 0].tolist()]
        likeliest: list[int] = []
        sequence = backend.open_sequence()
        try:
            for begin in range(0, len(tokens), backend.batch):
                part = tokens[begin : begin + backend.batch]
                logits = np.asarray(backend.step(part, [sequence] * len(part), [True] * len(part)))
                likeliest += logits.argmax(axis=1).tolist()
        finally:
            backend.close_sequence(sequence)
        return _digest(chosen) == result.tokens_hash and likeliest[start - 1 :] == chosen[:, 0].tolist()

    def peak_bytes(self) -> int | None:
        """Peak memory of the process since this model's loading began."""
        return peak_memory()

    def close(self) -> None:
        """Free the model."""
        self.backend.close()
        if self._draft is not None:
            self._draft.close()
        self.plan.close_draft()
        self.file.close()

    def _once(self, test: Trial, meter: EnergyMeter | None = None) -> tuple[float, float | None, str]:
        """Seconds, joules, and the hash of the greedy tokens of one run."""
        backend = self.backend
        sequences = [backend.open_sequence() for _ in range(test.n_parallel)]
        try:
            start = max(test.n_depth, 0 if test.n_prompt else 1)
            rows = self._feed(sequences, self._ids[:start]) if start else None
            if meter:
                meter.start()
            begin = time.perf_counter()
            if test.n_prompt:
                rows = self._feed(sequences, self._ids[start : start + test.n_prompt])
            chosen = self._generate(sequences, rows, test.n_gen)
            seconds = time.perf_counter() - begin
            joules = meter.stop() if meter else None
        finally:
            for sequence in sequences:
                backend.close_sequence(sequence)
        return seconds, joules, _digest(chosen) if test.n_gen else ""

    def _once_drafting(
        self, test: Trial, meter: EnergyMeter, result: Result
    ) -> tuple[float, float | None, str]:
        """The same for answers of the scheduler; the tokens before them are computed once and kept."""
        scheduler = Scheduler(
            self.backend,
            frozenset(),
            max_active=test.n_parallel,
            min_shared=self.plan.n_ctx + 1,
            draft_max=self._draft_max,
            draft=self._draft,
        )
        prompt = self._ids[: max(test.n_depth, 1)].tolist()
        ends: list[Event] = []
        try:
            _finish(scheduler, [self._request(prompt, 0, ends)])
            requests = [self._request(prompt, test.n_gen, ends) for _ in range(test.n_parallel)]
            meter.start()
            begin = time.perf_counter()
            _finish(scheduler, requests)
            seconds = time.perf_counter() - begin
            joules = meter.stop()
        finally:
            scheduler.stop()
        for end in ends:
            if isinstance(end, Finish) and end.error is not None:
                raise end.error
        result.n_drafted = sum(request.n_drafted for request in requests)
        result.n_accepted = sum(request.n_accepted for request in requests)
        chosen = np.asarray([request.tokens[len(prompt) :] for request in requests], np.int32).T
        return seconds, joules, _digest(chosen)

    def _request(self, prompt: Sequence[int], n_gen: int, events: list[Event]) -> Request:
        options = GenerateOptions(temperature=0.0, max_tokens=n_gen)
        return make_request(
            prompt, options, n_vocab=self.backend.n_vocab, decoder=_Silent(), on_event=events.append
        )

    def _feed(self, sequences: Sequence[int], ids: Ints) -> Ints:
        """Append `ids` to every sequence, a step's worth at a time; the likeliest next token of each."""
        tokens = ids.tolist() * len(sequences)
        owners = [sequence for sequence in sequences for _ in ids]
        outputs = [*[False] * (len(ids) - 1), True] * len(sequences)
        best = []
        for start in range(0, len(tokens), self.backend.batch):
            part = slice(start, start + self.backend.batch)
            logits = np.asarray(self.backend.step(tokens[part], owners[part], outputs[part]))
            best.append(logits.argmax(axis=1))
        return np.concatenate(best).astype(np.int32)

    def _generate(self, sequences: Sequence[int], tokens: Ints | None, n: int) -> Ints:
        """Append the likeliest token to every sequence, `n` times; (n, n_sequences)."""
        if tokens is None or n == 0:
            return np.zeros((0, len(sequences)), np.int32)
        outputs = [True] * len(sequences)
        chosen = np.empty((n, len(sequences)), np.int32)
        for i in range(n):
            chosen[i] = tokens
            logits = np.asarray(self.backend.step(tokens.tolist(), sequences, outputs, 1))
            tokens = logits.argmax(axis=1).astype(np.int32)
        return chosen


class _Silent:
    """A decoder for tokens whose text is not needed."""

    def push(self, token: int, /) -> str:
        return ""

    def flush(self) -> str:
        return ""


def _finish(scheduler: Scheduler, requests: Sequence[Request]) -> None:
    for request in requests:
        scheduler.submit(request)
    while scheduler.busy:
        scheduler.step()


def _digest(tokens: Ints) -> str:
    """Hash of the tokens (n, n_sequences)."""
    return hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()[:16]


def cache_tokens(tests: Sequence[Trial]) -> int:
    """Tokens that the cache must hold for the largest test, with room for partly filled blocks."""
    return max((test.length + _SPARE_TOKENS) * test.n_parallel for test in tests)
