"""One request on its way through the scheduler, and the events it sends to whoever waits for it."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from edgellm.engine.adapters import Scales
from edgellm.engine.options import GenerateOptions
from edgellm.engine.sampling import Sampled, Sampler
from edgellm.engine.stops import StopFilter

if TYPE_CHECKING:
    from edgellm.engine.prefix_disk import Recall
    from edgellm.engine.prefix_store import Piece

FinishReason: TypeAlias = Literal["stop", "length", "context", "cancelled", "error"]

_numbers = itertools.count(1)


class StreamDecoder(Protocol):
    """Turns token ids into text piece by piece, never splitting a character."""

    def push(self, token: int, /) -> str: ...

    def flush(self) -> str: ...


class TokenMatcher(Protocol):
    """Says which tokens may come next, and whether a token has completed the answer."""

    def mask(self) -> memoryview: ...

    def accept(self, token: int, /) -> bool: ...


class Delta(NamedTuple):
    """Text that is certainly part of the answer, and the tokens that it completes."""

    text: str
    tokens: tuple[Sampled, ...]


class Stats(NamedTuple):
    """What one request cost: tokens, and seconds spent queued, reading the prompt and answering.

    n_cached of the n_prompt tokens were already in the cache. n_accepted of n_drafted tokens were guessed
    right ahead of time. first_token_s is the time from submission to the first token.
    """

    n_prompt: int
    n_cached: int
    n_generated: int
    queue_s: float
    prompt_s: float
    generate_s: float
    n_drafted: int = 0
    n_accepted: int = 0

    @property
    def first_token_s(self) -> float:
        return self.queue_s + self.prompt_s

    @property
    def prompt_tok_s(self) -> float:
        """Prompt tokens computed (not those found in the cache) per second."""
        return (self.n_prompt - self.n_cached) / self.prompt_s if self.prompt_s else 0.0

    @property
    def generate_tok_s(self) -> float:
        """Tokens per second after the first."""
        return (self.n_generated - 1) / self.generate_s if self.n_generated > 1 and self.generate_s else 0.0


class Finish(NamedTuple):
    """The last event of a request: why it ended, the stop text that ended it, its cost, its error."""

    reason: FinishReason
    stats: Stats
    stop: str | None = None
    error: Exception | None = None


Event: TypeAlias = Delta | Finish


class Request:
    """A prompt, how to continue it, and how far it has come.

    `tokens` is the prompt and then every sampled token; the first `fed` of them are in the backend's
    `sequence`. No step reaches past a place in `checkpoints`, because the sequence is copied there.
    `scales` are the factors of the adapters it uses. `on_event` is called on the thread that runs the
    scheduler and must not block.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        options: GenerateOptions,
        sampler: Sampler,
        decoder: StreamDecoder,
        on_event: Callable[[Event], None],
        matcher: TokenMatcher | None = None,
        scales: Scales = (),
    ) -> None:
        self.prompt = prompt
        self.options = options
        self.sampler = sampler
        self.decoder = decoder
        self.on_event = on_event
        self.matcher = matcher
        self.scales = scales
        self.number = next(_numbers)
        self.prompt_ids = array("i", prompt)
        self.tokens = list(prompt)
        self.stops = StopFilter(options.stop)
        self.sequence: int | None = None
        self.fed = 0
        self.n_cached: int | None = None
        self.n_drafted = 0
        self.n_accepted = 0
        self.checkpoints: set[int] = set()
        self.kept: list[Piece] | None = None  # what the disk has of the prompt; None: it has not been asked
        self.recall: Recall | None = None
        self.cancelled = False
        self.finished = False
        self.submitted_at = 0.0
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self._n_text = 0
        self._n_released = 0
        self._unreleased: list[tuple[int, Sampled]] = []

    @property
    def n_generated(self) -> int:
        return len(self.tokens) - len(self.prompt)

    @property
    def n_largest(self) -> int:
        """How many of the largest logits the next token is chosen from; 0: all of them."""
        return 0 if self.matcher is not None else self.sampler.n_largest

    @property
    def n_pending(self) -> int:
        """Tokens that the backend has not seen yet."""
        return len(self.tokens) - self.fed

    @property
    def n_until_stop(self) -> int:
        """Pending tokens up to the next checkpoint or the end."""
        return min(
            (place - self.fed for place in self.checkpoints if place > self.fed), default=self.n_pending
        )

    @property
    def decoding(self) -> bool:
        """Whether the next step yields the next token of an answer that has begun."""
        return self.n_generated > 0 and self.n_pending == 1

    def cancel(self) -> None:
        """Ask for the end of the request, from any thread; it ends before the scheduler's next step."""
        self.cancelled = True

    def accept(self, sampled: Sampled, *, silent: bool) -> None:
        """Append a sampled token; unless `silent` (end of generation), send the text it completes."""
        self.tokens.append(sampled.id)
        if silent:
            return
        text = self.decoder.push(sampled.id)
        self._n_text += len(text)
        self._unreleased.append((self._n_text, sampled))
        self._release(self.stops.push(text), everything=False)

    def finish(self, reason: FinishReason, now: float, error: Exception | None = None) -> None:
        """Send what was held back, and the final event."""
        self.finished = True
        if self.stops.matched is None:
            rest = self.stops.push(self.decoder.flush()) + self.stops.flush()
            self._release(rest, everything=self.stops.matched is None)
        self.on_event(Finish(reason, self._stats(now), self.stops.matched, error))

    def _release(self, text: str, *, everything: bool) -> None:
        self._n_released += len(text)
        ready = [s for end, s in self._unreleased if everything or end <= self._n_released]
        if text or ready:
            del self._unreleased[: len(ready)]
            self.on_event(Delta(text, tuple(ready)))

    def _stats(self, now: float) -> Stats:
        admitted = now if self.admitted_at is None else self.admitted_at
        first = now if self.first_token_at is None else self.first_token_at
        return Stats(
            n_prompt=len(self.prompt),
            n_cached=self.n_cached or 0,
            n_generated=self.n_generated,
            queue_s=admitted - self.submitted_at,
            prompt_s=first - admitted,
            generate_s=now - first,
            n_drafted=self.n_drafted,
            n_accepted=self.n_accepted,
        )


class Grant(NamedTuple):
    """What one step feeds of one request: its next `n_tokens` tokens, then a guess at those that follow."""

    request: Request
    n_tokens: int
    guess: tuple[int, ...] = ()

    @property
    def wants_logits(self) -> bool:
        """Whether the step reaches the request's last token, after which the next one is sampled."""
        return self.n_tokens == self.request.n_pending and self.request.options.max_tokens != 0

    @property
    def n_logits(self) -> int:
        """The tokens of this grant, the last ones, after which logits are wanted."""
        return 1 + len(self.guess) if self.wants_logits else 0
