"""Generation as an iterator: the caller's own thread runs the scheduler while it waits for text."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from edgellm.engine.adapters import Scales
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Event, FinishReason, Request, Stats, StreamDecoder, TokenMatcher
from edgellm.engine.sampling import Sampled, Sampler
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.chat.answers import Message
    from edgellm.engine.thoughts import ThoughtBudget

# Characters of an answer that its representation shows.
SHOWN_CHARS = 60


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
    """Iterator over the pieces of one answer's text, as it comes; `async for` works, too.

    `text` and `str()` wait for the end. A loop that is left before the end cancels the answer, and so do the
    end of a `with` block and `close`. `ids` and `logprobs` (with that option) hold the answer so far.
    """

    def __init__(self, scheduler: Scheduler, make: Callable[[Callable[[Event], None]], Request]) -> None:
        self._scheduler = scheduler
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._request = make(self._events.put)
        self._raw = ""
        self._reason: FinishReason | None = None
        self._stats: Stats | None = None
        self.logprobs: list[Sampled] = []
        scheduler.submit(self._request)

    @property
    def text(self) -> str:
        """The whole answer; waits for its end."""
        self._finish()
        return self._text

    @property
    def message(self) -> Message:
        """The whole answer as a message: its words, thoughts and tool calls; waits for its end."""
        from edgellm.chat.answers import Message

        return Message(self.text, "", [])

    @property
    def finish_reason(self) -> FinishReason | None:
        """stop, length, context or cancelled; None while the answer has not ended."""
        self._settle()
        return self._reason

    @property
    def stats(self) -> Stats | None:
        """Tokens and seconds of the answer; None while it has not ended."""
        self._settle()
        return self._stats

    @property
    def ids(self) -> list[int]:
        """Tokens sampled so far, with the one that ended the answer."""
        return self._request.tokens[len(self._request.prompt) :]

    @property
    def prompt_ids(self) -> list[int]:
        """Tokens of the prompt."""
        return list(self._request.prompt)

    @property
    def n_prompt_read(self) -> int:
        """Number of prompt tokens computed so far."""
        return min(self._request.n_computed, len(self._request.prompt))

    def __iter__(self) -> Iterator[str]:
        # A loop drops its iterator when it is left, and Python then closes a generator.
        try:
            while (piece := self._next()) is not None:
                yield piece
        except GeneratorExit:
            self.close()
            raise

    def __next__(self) -> str:
        piece = self._next()
        if piece is None:
            raise StopIteration
        return piece

    async def __aiter__(self) -> AsyncIterator[str]:
        import asyncio

        try:
            while (piece := await asyncio.to_thread(self._next)) is not None:
                yield piece
        finally:
            self.cancel()

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        state = "unfinished" if self._reason is None else f"finished: {self._reason}"
        text = self._text if len(self._text) <= SHOWN_CHARS else f"{self._text[:SHOWN_CHARS]}..."
        return f"<edgellm.Generation, {len(self.ids)} tokens, {state}: {text!r}>"

    @property
    def _text(self) -> str:
        """The answer so far."""
        return self._raw

    def _next(self) -> str | None:
        """The next piece that is not empty; None at the end."""
        while self._reason is None:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                self._scheduler.step()
                continue
            if isinstance(event, Delta):
                self._raw += event.text
                if self._request.options.logprobs is not None:
                    self.logprobs.extend(event.tokens)
                if event.text:
                    return event.text
                continue
            self._reason, self._stats = event.reason, event.stats
            if event.error is not None:
                raise event.error
        return None

    def _finish(self) -> None:
        while self._next() is not None:
            pass

    def _settle(self) -> None:
        """Let a cancelled answer end."""
        if self._request.cancelled:
            self._finish()

    def cancel(self) -> None:
        """End the answer before its next token; may be called from any thread."""
        self._request.cancel()

    def close(self) -> None:
        """Cancel the answer if it is unfinished, and free its sequence."""
        self.cancel()
        self._finish()

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_reason", "stop") is None:
            self._request.cancel()
