"""The recipe of all APIs: use a model, prepare a prompt, run it, shape the response."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Generic, TypeVar
from weakref import WeakSet

import numpy as np
from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from edgellm.chat.bare_calls import Parser
from edgellm.chat.parts import PartParser
from edgellm.chat.tools import Tool, ToolChoice
from edgellm.chat.truncation import largest_prompt, without_oldest
from edgellm.engine.conversation import Conversation, prepare
from edgellm.engine.lengths import check_length
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Finish, Stats
from edgellm.engine.sampling import Sampled
from edgellm.errors import ContextOverflowError, EdgeLLMError, UnsupportedError
from edgellm.server.answers import Answer, Job
from edgellm.server.bodies import ModelBody, naming_header
from edgellm.server.errors import RequestError
from edgellm.server.kept import KeptAnswers
from edgellm.server.logs import LOGGED
from edgellm.server.metrics import Metrics
from edgellm.server.models import ModelManager
from edgellm.server.served import Served
from edgellm.server.settings import ServerSettings
from edgellm.server.sse import Stream, unless_gone
from edgellm.server.thoughts import Thinking

log = logging.getLogger("edgellm.server")

RELAXED_HEADER = "X-Edgellm-Relaxed"
DROPPED_HEADER = "X-Edgellm-Dropped-Messages"
MAX_LOGGED = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that answers start from: token ids of one or more prompts, options, how to read the answers.

    shown: control tokens whose texts are part of the answers. parser: makes one for each answer. relaxed:
    fields of tools that the grammar does not enforce. ignored: fields that the template cannot honour.
    echoed: log-probabilities of each prompt's tokens. n_dropped: messages that were left out.
    """

    ids: Sequence[Sequence[int]]
    options: GenerateOptions
    n: int = 1
    shown: frozenset[int] = frozenset()
    parser: Callable[[], Parser] = PartParser
    relaxed: tuple[str, ...] = ()
    echoed: Sequence[Sequence[Sampled]] = ()
    ignored: tuple[str, ...] = ()
    n_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and what is asked of its answer; choice: None if no tool may be called.

    prefill: a last message of the assistant is the beginning of the answer, which goes on from there.
    truncate: the oldest exchanges of a conversation that is too long are left out.
    """

    messages: Sequence[Mapping[str, Any]]
    options: GenerateOptions
    tools: Sequence[Tool] = ()
    choice: ToolChoice | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    thinking: Thinking = field(default_factory=Thinking)
    prefill: bool = False
    truncate: bool = False
    n: int = 1

    async def prompt(self, loaded: Served) -> Prompt:
        """The conversation rendered and the grammar of its answers compiled, off the event loop.

        RequestError for content that is not text.
        """
        messages, begun = list(self.messages), ""
        if self.prefill and len(messages) > 1 and (last := messages[-1]).get("role") == "assistant":
            content = last.get("content")
            if isinstance(content, str) and not last.get("tool_calls"):
                messages, begun = messages[:-1], content
        try:
            return await asyncio.to_thread(self._prepare, loaded.model, messages, begun)
        except UnsupportedError as error:
            raise RequestError(400, str(error), param="messages") from None

    def _prepare(self, model: Model, messages: Sequence[Mapping[str, Any]], begun: str) -> Prompt:
        levels, options, ignored = self.thinking.apply(model.template, self.options, tools=bool(self.tools))
        prepared = partial(
            prepare,
            model,
            options=options,
            tools=self.tools,
            choice=self.choice,
            levels=levels,
            variables=template_variables(self.variables),
            begun=begun,
        )
        made, n_dropped = (
            self._shortened(model, prepared, messages) if self.truncate else (prepared(messages), 0)
        )
        if made.relaxed:
            n, names = len(made.relaxed), ", ".join(made.relaxed[:MAX_LOGGED])
            log.info("%d fields of tools are not enforced: %s", n, names)
        ignored += tuple(f"chat_template_kwargs.{name}" for name in made.unnamed)
        return Prompt(
            [made.ids],
            made.options,
            self.n,
            made.shown,
            made.parser,
            made.relaxed,
            ignored=ignored,
            n_dropped=n_dropped,
        )

    def _shortened(
        self,
        model: Model,
        prepared: Callable[[Sequence[Mapping[str, Any]]], Conversation],
        messages: Sequence[Mapping[str, Any]],
    ) -> tuple[Conversation, int]:
        """The conversation without its oldest exchanges if it is too long, and how many messages that are."""
        n_most = largest_prompt(model.n_ctx, self.options.max_tokens)
        kept = messages
        while True:
            fewer = without_oldest(kept)
            try:
                made = prepared(kept)
                if len(made.ids) <= n_most or fewer is None:
                    return made, len(messages) - len(kept)
            except ContextOverflowError:
                if fewer is None:
                    raise
            kept = fewer


B = TypeVar("B", bound=ModelBody)


class Shape(ABC, Generic[B]):
    """The response to one request in the making, as one API writes it."""

    media_type = "text/event-stream"
    ping = b": ping\n\n"

    def __init__(self, job: Job, body: B, prompt: Prompt, load_s: float) -> None:
        self.job = job
        self.body = body
        self.prompt = prompt
        self.load_s = load_s

    @abstractmethod
    def whole(self) -> Mapping[str, Any]:
        """The response, complete, once the job is done."""

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """The response as a stream."""

    @property
    def only(self) -> tuple[Answer, Finish]:
        """The answer where there is one, and its end."""
        answer = self.job.answers[0]
        assert answer.finish is not None
        return answer, answer.finish


@dataclass(slots=True)
class Service:
    """The models, the limits and the counters that the routes work with."""

    settings: ServerSettings
    models: ModelManager
    metrics: Metrics = field(default_factory=Metrics)
    kept: KeptAnswers = field(default_factory=KeptAnswers)
    chats_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _jobs: WeakSet[Job] = field(default_factory=WeakSet, init=False)

    def fail_all(self, error: EdgeLLMError) -> None:
        """End every answer under way with an error."""
        for job in list(self._jobs):
            job.fail(error)

    async def answer(
        self,
        request: Request,
        body: B,
        prepare: Callable[[Served], Awaitable[Prompt]],
        shape: type[Shape[B]],
        *,
        streams: bool,
        keep_s: float | None = None,
        n_ctx: int | None = None,
        kept_as: str | None = None,
    ) -> Response:
        """Load the model if need be, prepare the prompt, run it, and respond: a stream or the whole.

        The job ends with the response. keep_s, n_ctx: as in `ModelManager.use`. kept_as: the name of a stream
        that goes on without its reader.
        """
        begin = time.perf_counter()
        if kept_as is not None:
            self.kept.check(kept_as)
            if not streams:
                raise RequestError(400, "answer_id needs stream to be true.", param="answer_id")
        async with self.models.use(body.model, keep_s, n_ctx) as loaded:
            load_s = time.perf_counter() - begin
            loaded.model.check_generates()
            try:
                prompt = await prepare(loaded)
                job = self.start(loaded, prompt)
            except ContextOverflowError as error:
                raise _with_context(error, loaded.model, n_ctx) from None
        made = shape(job, body, prompt, load_s)

        def end() -> None:
            request.scope["state"][LOGGED] = job.described()
            job.end()

        headers = {**body.ignored(prompt.ignored), **naming_header(RELAXED_HEADER, list(prompt.relaxed))}
        if prompt.n_dropped:
            headers[DROPPED_HEADER] = str(prompt.n_dropped)
        if streams:
            chunks, on_end = made.chunks(), end
            if kept_as is not None:
                try:
                    chunks = self.kept.start(kept_as, chunks, stop=job.stop, on_end=end)
                except BaseException:
                    end()
                    raise
                on_end = _nothing
            return Stream(
                chunks,
                self.settings.limits,
                on_end=on_end,
                media_type=shape.media_type,
                ping=shape.ping,
                headers=headers,
            )
        try:
            await unless_gone(request, job.collect())
            return JSONResponse(made.whole(), headers=headers)
        finally:
            end()

    def start(self, loaded: Served, prompt: Prompt) -> Job:
        """Start the answers, within the limits; RequestError names one that is exceeded."""
        limits, n, options = self.settings.limits, prompt.n, prompt.options
        if not 1 <= n <= limits.choices:
            raise RequestError(400, f"n is {n}; it must be between 1 and {limits.choices}.", param="n")
        if not 1 <= len(prompt.ids) <= limits.inputs:
            raise RequestError(
                400, f"There are {len(prompt.ids)} prompts; 1 to {limits.inputs} are accepted."
            )
        allowed, asked = limits.output_tokens, options.max_tokens
        if allowed is not None:
            if asked is not None and asked > allowed:
                raise RequestError(
                    400, f"{asked} tokens were asked for; at most {allowed} are given.", param="max_tokens"
                )
            options = replace(options, max_tokens=allowed if asked is None else asked)
        job = Job(loaded, prompt.ids, options, self.metrics, n=n, shown=prompt.shown)
        self._jobs.add(job)
        return job

    async def embed(
        self,
        loaded: Served,
        texts: Sequence[Sequence[int]],
        dimensions: int | None = None,
        *,
        most: int | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings (n_texts, width) of tokenized texts, computed between the steps of other requests.

        dimensions: only so many of the first values, scaled to length 1 again. most: texts that a request may
        have; None: as many as its body holds. An empty text is the token that begins or ends texts.
        """
        if not 1 <= len(texts) <= (most or len(texts)):
            accepted = "1 or more" if most is None else f"1 to {most}"
            raise RequestError(400, f"There are {len(texts)} inputs; {accepted} are accepted.", param="input")
        rows = []
        blank = _blank(loaded.model)
        for part in _turns([ids or blank for ids in texts], loaded.model.backend.batch):
            work = partial(loaded.model.embed_ids, part, dimensions=dimensions, lora=loaded.lora)
            rows.append(await asyncio.wrap_future(loaded.runner.call(work)))
        return np.concatenate(rows)


# Pairs of texts that one turn of a model's thread scores, between steps of other requests.
TOGETHER = 16


def _turns(texts: Sequence[Sequence[int]], n_tokens: int) -> Iterator[list[Sequence[int]]]:
    """Texts that one turn of a model's thread embeds: those of a step, or one that is longer."""
    part: list[Sequence[int]] = []
    room = n_tokens
    for ids in texts:
        if part and len(ids) > room:
            yield part
            part, room = [], n_tokens
        part.append(ids)
        room -= len(ids)
    yield part


def _nothing() -> None:
    """The end of a response whose answer goes on."""


def _with_context(error: ContextOverflowError, model: Model, n_ctx: int | None) -> ContextOverflowError:
    """The error with the num_ctx that was asked for and could not be had."""
    if n_ctx is None or n_ctx <= model.n_ctx:
        return error
    return ContextOverflowError(
        f"{error} num_ctx asks for {n_ctx}; the model runs with {model.n_ctx} (-c), and neither its training "
        "nor memory allows more."
    )


def _blank(model: Model) -> list[int]:
    """The tokens of a text without words."""
    known = (model.tokenizer.bos_id, model.tokenizer.eos_id, *sorted(model.tokenizer.eog_ids))
    return [token for token in known if token is not None][:1]


def get_service(request: Request) -> Service:
    """The service of the app that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


ServiceOf = Annotated[Service, Depends(get_service)]


def template_variables(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Template variables besides the messages; RequestError for those that other fields set."""
    taken = {"self", "messages", "tools", "add_generation_prompt"} & set(given or {})
    if taken:
        name = min(taken)
        raise RequestError(
            400, f"chat_template_kwargs cannot set {name}.", param=f"chat_template_kwargs.{name}"
        )
    return given or {}


async def tokenized(
    model: Model, texts: Sequence[str], *, parse_special: bool = False, n_chars: int | None = None
) -> list[list[int]]:
    """Token ids of texts with the model's special tokens around each; long ones take a while.

    parse_special: the texts of control tokens become those tokens. n_chars: only so much of each; without it
    ContextOverflowError for a text that cannot fit the context.
    """

    def work() -> list[list[int]]:
        found = []
        for text in texts:
            if n_chars is None:
                check_length(model, [text])
            part = text[:n_chars]
            found.append(model.tokenizer.encode(part, add_special=True, parse_special=parse_special))
        return found

    return await asyncio.to_thread(work)


def timings(stats: Stats) -> dict[str, float]:
    """The cost of a request, as llama.cpp's server writes it: counts, milliseconds, tokens per second."""
    computed = stats.n_prompt - stats.n_cached
    return {
        "cache_n": stats.n_cached,
        "prompt_n": computed,
        "prompt_ms": stats.prompt_s * 1e3,
        "prompt_per_token_ms": stats.prompt_s * 1e3 / computed if computed else 0.0,
        "prompt_per_second": stats.prompt_tok_s,
        "predicted_n": stats.n_generated,
        "predicted_ms": stats.generate_s * 1e3,
        "predicted_per_token_ms": stats.generate_s * 1e3 / max(1, stats.n_generated),
        "predicted_per_second": stats.generate_tok_s,
        "draft_n": stats.n_drafted,
        "draft_n_accepted": stats.n_accepted,
        "queue_ms": stats.queue_s * 1e3,
    }
