"""Requests on an engine thread, awaited on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Event, Finish, Request
from edgellm.engine.sampling import Sampled
from edgellm.engine.session import make_request
from edgellm.errors import EdgeLLMError
from edgellm.server.metrics import Metrics
from edgellm.server.served import Served


@dataclass(slots=True, eq=False)
class Answer:
    """One answer and what has come of it."""

    request: Request
    text: str = ""
    tokens: list[Sampled] = field(default_factory=list)
    finish: Finish | None = None


class Reading(NamedTuple):
    """Progress of a prompt: its tokens, those in the cache, those done, and milliseconds since its start."""

    n_prompt: int
    n_cached: int
    n_done: int
    ms: float


class Job:
    """The answers that one HTTP request asks for; `end` must be called when it is over, whatever happened.

    prompts: one answer to each; answer i of `n` to the same prompt has the seed plus i. Raises UsageError,
    ContextOverflowError or OverloadedError at once if one of them cannot be queued. shown: control tokens
    whose texts are part of the answers.
    """

    def __init__(
        self,
        loaded: Served,
        prompts: Sequence[Sequence[int]],
        options: GenerateOptions,
        metrics: Metrics,
        *,
        n: int = 1,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self.loaded = loaded
        self.answers: list[Answer] = []
        self._metrics = metrics
        self._shown = shown
        self._events: asyncio.Queue[tuple[Answer, Event] | EdgeLLMError] = asyncio.Queue()
        self._come = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        loaded.acquire()
        try:
            for prompt in prompts:
                for choice in range(n):
                    seed = None if options.seed is None else (options.seed + choice) % 2**64
                    self._start(prompt, replace(options, seed=seed))
        except BaseException:
            self.end()
            raise

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(index of the answer, event) as they come; raises what the engine failed with."""
        while any(answer.finish is None for answer in self.answers):
            come = await self._events.get()
            if isinstance(come, EdgeLLMError):
                raise come
            answer, event = come
            if isinstance(event, Delta):
                answer.text += event.text
                answer.tokens.extend(event.tokens)
            else:
                answer.finish = event
                self._metrics.count(event)
                if event.error is not None:
                    raise event.error
            yield self.answers.index(answer), event

    async def reading(self, every_s: float) -> AsyncIterator[Reading]:
        """Progress of the first prompt, so often, until the first event has come."""
        begin, request = self._loop.time(), self.answers[0].request
        while not self._come.is_set():
            ms = (self._loop.time() - begin) * 1e3
            yield Reading(len(request.prompt), request.n_cached or 0, request.n_computed, ms)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._come.wait()

    async def collect(self) -> list[Finish]:
        """Wait for the end of all answers."""
        async for _ in self.events():
            pass
        return [answer.finish for answer in self.answers if answer.finish is not None]

    def fail(self, error: EdgeLLMError) -> None:
        """End all answers with an error, whether or not the engine goes on."""
        self._put(error)

    def described(self) -> dict[str, str | int | float]:
        """Model, tokens and speed, for the request's line in the log."""
        requests = [answer.request for answer in self.answers]
        finished = [answer.finish.stats for answer in self.answers if answer.finish is not None]
        seconds = max((stats.generate_s for stats in finished), default=0.0)
        n_decoded = sum(max(0, stats.n_generated - 1) for stats in finished)
        return {
            "model": self.loaded.name,
            "prompt": sum(len(request.prompt) for request in requests),
            "cached": sum(request.n_cached or 0 for request in requests),
            "answer": sum(request.n_generated for request in requests),
            **({"tok_s": round(n_decoded / seconds, 1)} if seconds and n_decoded else {}),
        }

    def stop(self) -> None:
        """Have the engine end what is under way; the events of the ends come, with what they cost."""
        for answer in self.answers:
            if answer.finish is None:
                self.loaded.runner.cancel(answer.request)

    def end(self) -> None:
        """Cancel what has not ended and let go of the model."""
        if self._ended:
            return
        self._ended = True
        for answer in self.answers:
            if answer.finish is None:
                self.loaded.runner.cancel(answer.request)
                self._metrics.requests["cancelled"] += 1
        self.loaded.release()

    def _put(self, come: tuple[Answer, Event] | EdgeLLMError) -> None:
        self._events.put_nowait(come)
        self._come.set()

    def _start(self, prompt: Sequence[int], options: GenerateOptions) -> None:
        model = self.loaded.model
        request = make_request(
            prompt,
            options,
            n_vocab=model.backend.n_vocab,
            decoder=model.tokenizer.stream(shown=self._shown),
            on_event=lambda event: deliver(event),
            matcher=model.matcher(options),
            scales=model.scales(self.loaded.lora if options.lora is None else options.lora),
            thoughts=model.thought_budget(options, prompt),
            defaults=model.sampling_defaults,
        )
        answer = Answer(request)
        deliver = self._deliverer(answer)
        self.loaded.runner.submit(request)
        self.answers.append(answer)

    def _deliverer(self, answer: Answer) -> Callable[[Event], None]:
        def deliver(event: Event) -> None:
            self.loaded.runner.post(self._loop, partial(self._put, (answer, event)))

        return deliver
