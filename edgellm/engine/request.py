"""Requests of the scheduler, and the events that they send to their listener."""

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
    from edgellm.engine.prefix_disk import DiskRead
    from edgellm.engine.prefix_store import Piece
    from edgellm.engine.thoughts import ThoughtBudget

FinishReason: TypeAlias = Literal["stop", "length", "context", "cancelled", "error"]

_numbers = itertools.count(1)


class StreamDecoder(Protocol):
    """Incremental detokenizer: turns token ids into text without splitting a character."""

    def push(self, token: int, /) -> str: ...

    def flush(self) -> str: ...


class TokenMatcher(Protocol):
    """Grammar state of one answer: the mask of allowed tokens, and the end of the answer."""

    def mask(self) -> memoryview: ...

    def accept(self, token: int, /) -> bool: ...


class Delta(NamedTuple):
    """Event: text that is certainly part of the answer, and the tokens that it completes."""

    text: str
    tokens: tuple[Sampled, ...]


class Stats(NamedTuple):
    """Tokens of one request, and the seconds that it spent in the queue, in prefill and in decoding.

    n_cached: tokens of the prompt found in the prefix cache. n_accepted: draft tokens, of n_drafted, that
    equalled the sampled ones. first_token_s: time from submission to the first token.
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
        """Prompt tokens computed per second, without those found in the cache."""
        return (self.n_prompt - self.n_cached) / self.prompt_s if self.prompt_s else 0.0

    @property
    def generate_tok_s(self) -> float:
        """Tokens per second after the first."""
        return (self.n_generated - 1) / self.generate_s if self.n_generated > 1 and self.generate_s else 0.0


class Finish(NamedTuple):
    """Event: the end of a request with its reason, its cost, and the stop text or the error that ended it."""

    reason: FinishReason
    stats: Stats
    stop: str | None = None
    error: Exception | None = None


Event: TypeAlias = Delta | Finish


class Request:
    """A prompt, its options, and the state of its answer.

    tokens: the prompt and every sampled token; the first `n_computed` of them are in the backend's
    `sequence`. checkpoints: positions at which the sequence is copied; no step goes past one. scales: of the
    adapters that it uses. on_event: called on the scheduler's thread; it must not block.
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
        thoughts: ThoughtBudget | None = None,
    ) -> None:
        self.prompt = prompt
        self.options = options
        self.sampler = sampler
        self.decoder = decoder
        self.on_event = on_event
        self.matcher = matcher
        self.scales = scales
        self.thoughts = thoughts
        self.number = next(_numbers)
        self.prompt_ids = array("i", prompt)
        self.tokens = list(prompt)
        self.stops = StopFilter(options.stop, options.stop_until)
        self.sequence: int | None = None
        self.n_computed = 0
        self.n_cached: int | None = None
        self.n_drafted = 0
        self.n_accepted = 0
        self.checkpoints: set[int] = set()
        self.on_disk: list[Piece] | None = None  # pieces of the prompt's prefix; None: not looked up yet
        self.disk_read: DiskRead | None = None
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
        """Number of the largest logits that sampling reads; 0: all of them."""
        masked = self.matcher is not None or (self.thoughts is not None and self.thoughts.watches)
        return 0 if masked else self.sampler.n_largest

    def mask(self) -> memoryview | None:
        """Mask of the tokens that may come next; None: any."""
        allowed = None if self.matcher is None else self.matcher.mask()
        return allowed if self.thoughts is None else self.thoughts.mask(allowed)

    @property
    def n_pending(self) -> int:
        """Number of tokens that the backend has not computed yet."""
        return len(self.tokens) - self.n_computed

    @property
    def n_until_checkpoint(self) -> int:
        """Number of pending tokens up to the next checkpoint, or to the end."""
        return min(
            (place - self.n_computed for place in self.checkpoints if place > self.n_computed),
            default=self.n_pending,
        )

    @property
    def decoding(self) -> bool:
        """True once the answer has begun and only its last token is pending."""
        return self.n_generated > 0 and self.n_pending == 1

    def cancel(self) -> None:
        """End the request before the scheduler's next step; may be called from any thread."""
        self.cancelled = True

    def accept(self, sampled: Sampled, *, silent: bool) -> None:
        """Append a sampled token, and send the text that it completes unless `silent` (end of generation)."""
        self.tokens.append(sampled.id)
        if self.thoughts is not None:
            self.thoughts.accept(sampled.id)
        if silent:
            return
        text = self.decoder.push(sampled.id)
        self._n_text += len(text)
        self._unreleased.append((self._n_text, sampled))
        self._release(self.stops.push(text), everything=False)

    def finish(self, reason: FinishReason, now: float, error: Exception | None = None) -> None:
        """Send the text held back for stop texts, and the final event."""
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


class ScheduledTokens(NamedTuple):
    """Tokens of one request in one step: its next `n_tokens` tokens, then `draft` tokens to verify."""

    request: Request
    n_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def wants_logits(self) -> bool:
        """True if the step computes the request's last token, after which the next one is sampled."""
        return self.n_tokens == self.request.n_pending and self.request.options.max_tokens != 0

    @property
    def n_logits(self) -> int:
        """Number of last tokens whose logits the step returns."""
        return 1 + len(self.draft) if self.wants_logits else 0
