"""A model without weights, whose logits depend on every token so far; each token is one letter."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from edgellm.backends.base import Floats
from edgellm.backends.interpreter import InterpreterBackend
from edgellm.engine.adapters import Scales
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Event, Finish, Request
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import make_request

N_VOCAB = 40
EOG = 39


class HashModel:
    """Logits are noise seeded by the tokens so far, or peaked at the token that a script names.

    script: maps the tokens so far to the token that is to follow, or None for noise.
    """

    def __init__(
        self, script: Callable[[Sequence[int]], int | None] | None = None, eog_bias: float = -30.0
    ) -> None:
        self._script = script
        self._eog_bias = eog_bias

    def logits(
        self, ids: Sequence[int], scales: Sequence[float] = (), positions: Sequence[int] | None = None, /
    ) -> Floats:
        rows = np.empty((len(ids), N_VOCAB), np.float32)
        state = zlib.crc32(repr(tuple(scales)).encode()) if scales else 0
        for position, token in enumerate(ids):
            state = zlib.crc32(token.to_bytes(4, "little"), state)
            rows[position] = _noise(state)
            rows[position, EOG] += self._eog_bias
            wanted = self._script(ids[: position + 1]) if self._script else None
            if wanted is not None:
                rows[position, wanted] = 1000.0
        return rows if positions is None else rows[list(positions)]

    def hidden(self, ids: Sequence[int], scales: Sequence[float] = (), /) -> Floats:
        return self.logits(ids, scales)[:, :8]


@functools.cache
def _noise(state: int) -> Floats:
    return np.random.default_rng(state).normal(0, 2, N_VOCAB).astype(np.float32)


class Letters:
    """A stream decoder: token n is the n-th letter; the end-of-generation token has no text."""

    def push(self, token: int) -> str:
        return chr(ord("A") + token)

    def flush(self) -> str:
        return ""


class CountingBackend(InterpreterBackend):
    """Remembers how many tokens each step fed, by sequence, and how many logits it was asked for."""

    steps: list[dict[int, int]]
    asked: list[int]

    def __init__(self, model: HashModel | None = None, *, n_ctx: int = 256, **options: int | bool) -> None:
        super().__init__(model or HashModel(), n_vocab=N_VOCAB, n_embd=8, n_ctx=n_ctx, **options)  # type: ignore[arg-type]
        self.steps, self.asked = [], []

    def step(self, tokens, sequences, outputs, n_largest=0):  # type: ignore[no-untyped-def]
        self.asked.append(n_largest)
        numbers, counts = np.unique(sequences, return_counts=True)
        logits = super().step(tokens, sequences, outputs, n_largest)
        self.steps.append(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        return logits


class Collected:
    """A request and the events it has sent."""

    def __init__(
        self, prompt: Sequence[int], options: GenerateOptions | None = None, scales: Scales = ()
    ) -> None:
        self.events: list[Event] = []
        self.request: Request = make_request(
            list(prompt),
            options or GenerateOptions(temperature=0.0, max_tokens=8),
            n_vocab=N_VOCAB,
            decoder=Letters(),
            on_event=self.events.append,
            scales=scales,
        )

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def finish(self) -> Finish:
        """The final event, which must be the last one and the only one of its kind."""
        finishes = [event for event in self.events if isinstance(event, Finish)]
        assert len(finishes) == 1
        assert self.events[-1] is finishes[0]
        return finishes[0]

    @property
    def finished(self) -> bool:
        return any(isinstance(event, Finish) for event in self.events)


def run_all(scheduler: Scheduler, *collected: Collected, limit: int = 10_000) -> None:
    """Submit the requests and step until nothing is left to do."""
    for one in collected:
        scheduler.submit(one.request)
    for _ in range(limit):
        if not scheduler.busy:
            return
        scheduler.step()
    raise AssertionError("the scheduler does not come to an end")


def alone(
    prompt: Sequence[int],
    options: GenerateOptions,
    model: HashModel | None = None,
    n_ctx: int = 256,
    scales: Scales = (),
) -> Collected:
    """The same request on a scheduler and a cache of its own."""
    one = Collected(prompt, options, scales)
    run_all(Scheduler(CountingBackend(model, n_ctx=n_ctx), frozenset({EOG})), one)
    return one
