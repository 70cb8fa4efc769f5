"""Generation as an iterator: the caller's own thread runs the scheduler while it waits for text."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from edgellm.engine.adapters import Scales
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Event, FinishReason, Request, Stats, StreamDecoder, TokenMatcher
from edgellm.engine.sampling import Sampled, Sampler
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.engine.thoughts import ThoughtBudget


def make_request(
    prompt: Sequence[int],
    options: GenerateOptions,
    *,
    n_vocab: int,
    decoder: StreamDecoder,
    on_event: Callable[[Event], None],
    matcher: TokenMatcher | None = None,
    scales: Scales = (),
    thoughts: ThoughtBudget | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Request:
    """Make a request for the scheduler.

    matcher: at the beginning of the grammar that the options name (`Model.matcher`). scales: of the adapters
    that they choose (`Model.scales`). thoughts: their budget (`Model.thought_budget`). defaults: sampling
    values of the model's file, for options left None.
    Raises UsageError if a token of the prompt, or a biased one, is not in the vocabulary.
    """
    if len(prompt) and (min(prompt) < 0 or max(prompt) >= n_vocab):
        raise UsageError(f"The prompt holds token ids outside 0..{n_vocab - 1}.")
    beyond = [token for token in options.logit_bias if token >= n_vocab]
    if beyond:
        raise UsageError(f"logit_bias names token {beyond[0]}; the vocabulary ends at {n_vocab - 1}.")
    return Request(
        prompt=prompt,
        options=options,
        sampler=Sampler(options.resolve(defaults)),
        decoder=decoder,
        on_event=on_event,
        matcher=matcher,
        scales=scales,
        thoughts=thoughts,
    )


class Generation(Iterator[str]):
    """Iterator over the pieces of one answer's text.

    `text`, `ids` and `logprobs` (with that option) hold the answer so far; `finish_reason` (stop, length,
    context or cancelled) and `stats` are set at the end. Leaving a `with` block, or `close`, cancels an
    unfinished answer.
    """

    def __init__(self, scheduler: Scheduler, make: Callable[[Callable[[Event], None]], Request]) -> None:
        self._scheduler = scheduler
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._request = make(self._events.put)
        self.text = ""
        self.logprobs: list[Sampled] = []
        self.finish_reason: FinishReason | None = None
        self.stats: Stats | None = None
        scheduler.submit(self._request)

    @property
    def ids(self) -> list[int]:
        """Tokens sampled so far, with the one that ended the answer."""
        return self._request.tokens[len(self._request.prompt) :]

    @property
    def prompt_ids(self) -> list[int]:
        return list(self._request.prompt)

    @property
    def n_prompt_read(self) -> int:
        """Number of prompt tokens computed so far."""
        return min(self._request.n_computed, len(self._request.prompt))

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        while self.finish_reason is None:
            while self._events.empty():
                self._scheduler.step()
            event = self._events.get()
            if isinstance(event, Delta):
                self.text += event.text
                if self._request.options.logprobs is not None:
                    self.logprobs.extend(event.tokens)
                if event.text:
                    return event.text
                continue
            self.finish_reason, self.stats = event.reason, event.stats
            if event.error is not None:
                raise event.error
        raise StopIteration

    def cancel(self) -> None:
        """End the answer before its next token; may be called from any thread."""
        self._request.cancel()

    def close(self) -> None:
        """Cancel the answer if it is unfinished, and free its sequence."""
        self.cancel()
        for _ in self:
            pass

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "finish_reason", "stop") is None:
            self._request.cancel()
