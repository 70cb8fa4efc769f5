"""The OpenAI API: chat completions, completions, embeddings, models."""

from __future__ import annotations

import asyncio
import base64
import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import Field

from edgellm.chat.parts import Part, Thought, Words, parse
from edgellm.chat.tools import ToolChoice, read_tools
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Finish, Stats
from edgellm.engine.sampling import Sampled
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Answer, Job
from edgellm.server.conversation import Conversation
from edgellm.server.errors import RequestError, openai_error
from edgellm.server.models import Source
from edgellm.server.service import Body, SamplingFields, ServiceOf, timings, tokenized, tool_choice
from edgellm.server.sse import data_event, unless_gone

router = APIRouter(tags=["OpenAI"])

DONE = b"data: [DONE]\n\n"
MAX_TOP_LOGPROBS = 20

TextOrTokens: TypeAlias = str | list[str] | list[int] | list[list[int]]


class StreamOptions(Body):
    """include_usage: one more chunk at the end with the token counts."""

    include_usage: bool = False


class JSONSchema(Body):
    """A schema that answers are valid against, whether or not they are asked to be strict."""

    name: str = ""
    strict: bool | None = None
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JSONSchema | None = None


class NamedFunction(Body):
    """A function by its name."""

    name: str


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class ChatBody(SamplingFields):
    """POST /v1/chat/completions."""

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool | None = None

    def constrained(self, options: GenerateOptions) -> GenerateOptions:
        """The options with what response_format asks for."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return options
        if wanted.type == "json_object":
            return replace(options, json=True)
        if wanted.json_schema is None:
            raise RequestError(
                400, "response_format has no json_schema.", param="response_format.json_schema"
            )
        return replace(options, schema=wanted.json_schema.json_schema)

    def choice(self) -> ToolChoice | None:
        """Which tools may be called, or None if none may."""
        wanted = self.tool_choice
        if isinstance(wanted, NamedTool):
            return tool_choice(self.tools, "required", wanted.function.name)
        return tool_choice(self.tools, wanted, parallel=self.parallel_tool_calls)


class CompletionBody(SamplingFields):
    """POST /v1/completions."""

    model: str | None = None
    prompt: TextOrTokens = ""
    max_tokens: int | None = 16
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool = False


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str | None = None
    input: TextOrTokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


@router.get("/models")
async def list_models(service: ServiceOf) -> dict[str, Any]:
    """All models this server offers."""
    models = service.models
    models.refresh()
    adapted = [_adapted(info.name, source) for source in models.sources for info in models.adapters]
    return {"object": "list", "data": [*map(_model, models.sources), *adapted]}


@router.get("/models/{name:path}")
async def get_model(name: str, service: ServiceOf) -> dict[str, Any]:
    """One model."""
    source = service.models.find(name)
    adapter = service.models.adapter(name)
    return _model(source) if adapter is None else _adapted(adapter.name, source)


@router.post("/chat/completions")
async def chat_completions(body: ChatBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    options = body.options(max_tokens=given, logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    async with service.models.use(body.model) as loaded:
        conversation = await service.conversation(
            loaded.model,
            body.messages,
            body.constrained(options),
            tools=read_tools(body.tools or ()),
            choice=body.choice(),
            variables=body.chat_template_kwargs,
        )
        job = service.start(
            loaded, [conversation.ids], conversation.options, n=body.n, shown=conversation.shown
        )
    shape = _ChatShape(job, body, conversation)
    chunks = shape.chunks() if body.stream else None
    return await service.respond(request, job, body, whole=shape.response, chunks=chunks)


@router.post("/completions")
async def completions(body: CompletionBody, request: Request, service: ServiceOf) -> Response:
    """Continue a text."""
    options = body.options(max_tokens=body.max_tokens, logprobs=body.logprobs)
    async with service.models.use(body.model) as loaded:
        prompts = await _token_lists(body.prompt, loaded.model)
        await asyncio.to_thread(loaded.model.compile_grammar, options)
        job = service.start(loaded, prompts, options, n=body.n)
    shape = _CompletionShape(job, body)
    chunks = shape.chunks() if body.stream else None
    return await service.respond(request, job, body, whole=shape.response, chunks=chunks)


@router.post("/embeddings")
async def embeddings(body: EmbeddingBody, request: Request, service: ServiceOf) -> Response:
    """Embed texts."""
    async with service.models.use(body.model) as loaded:
        texts = await _token_lists(body.input, loaded.model)
        vectors = await unless_gone(request, service.embed(loaded, texts, body.dimensions))
    n_tokens = sum(map(len, texts))
    content = {
        "object": "list",
        "model": loaded.name,
        "data": [
            {"object": "embedding", "index": i, "embedding": _vector(row, body.encoding_format)}
            for i, row in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return JSONResponse(content, headers=body.ignored())


class _Shape(ABC):
    """One response in the making: what is the same for chats and completions."""

    whole_name: str
    chunk_name: str
    id_prefix: str

    def __init__(self, job: Job, body: ChatBody | CompletionBody) -> None:
        self.job = job
        self.body = body
        self.tokenizer = job.loaded.model.tokenizer
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    @abstractmethod
    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        """A choice, complete."""

    @abstractmethod
    def first(self, index: int) -> dict[str, Any] | None:
        """What a choice's stream begins with, if anything."""

    @abstractmethod
    def pieces(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Parts of a choice."""

    @abstractmethod
    def last(self, index: int, finish: Finish) -> list[dict[str, Any]]:
        """What a choice's stream ends with."""

    @property
    def wants_tokens(self) -> bool:
        """Whether pieces without text count, because of their log-probabilities."""
        return self.body.logprobs is not None and self.body.logprobs is not False

    def response(self) -> dict[str, Any]:
        """All choices, complete."""
        choices = [self.whole(index, answer) for index, answer in enumerate(self.job.answers)]
        content = self._envelope(self.whole_name, choices)
        return {**content, "usage": self._usage(), "timings": timings(_stats(self.job.answers[0]))}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's events."""
        try:
            for index in range(len(self.job.answers)):
                if (choice := self.first(index)) is not None:
                    yield self._chunk(choice)
            async for index, event in self.job.events():
                if isinstance(event, Delta):
                    if event.text or self.wants_tokens:
                        for choice in self.pieces(index, event):
                            yield self._chunk(choice)
                else:
                    *rest, last = self.last(index, event)
                    for choice in rest:
                        yield self._chunk(choice)
                    yield self._chunk(last, timings=timings(event.stats))
        except EdgeLLMError as error:
            yield data_event(openai_error(error))
        else:
            if self.body.stream_options is not None and self.body.stream_options.include_usage:
                yield data_event({**self._envelope(self.chunk_name, []), "usage": self._usage()})
        yield DONE

    def _chunk(self, choice: dict[str, Any], **more: Any) -> bytes:
        return data_event({**self._envelope(self.chunk_name, [choice]), **more})

    def _envelope(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": name,
            "created": self._created,
            "model": self.job.loaded.name,
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        """Token counts; a prompt counts once however many answers it got."""
        stats = [_stats(answer) for answer in self.job.answers]
        n_prompt = sum(s.n_prompt for s in stats[:: self.body.n])
        n_generated = sum(s.n_generated for s in stats)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_generated,
            "total_tokens": n_prompt + n_generated,
            "prompt_tokens_details": {"cached_tokens": sum(s.n_cached for s in stats[:: self.body.n])},
        }


class _ChatShape(_Shape):
    whole_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, job: Job, body: ChatBody, conversation: Conversation) -> None:
        super().__init__(job, body)
        self._new_parser = conversation.parser
        self._parsers = [conversation.parser() for _ in job.answers]

    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        parsed = parse(self._new_parser(), answer.text)
        message: dict[str, Any] = {"role": "assistant", "content": parsed.words, "refusal": None}
        if parsed.thoughts:
            message["reasoning_content"] = parsed.thoughts
        if parsed.calls:
            message["content"] = parsed.words or None
            message["tool_calls"] = [_tool_call(name, arguments) for name, arguments in parsed.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.tokens),
            "finish_reason": _finish_reason(answer.finish, n_calls=len(parsed.calls)),
        }

    def first(self, index: int) -> dict[str, Any]:
        return self._choice(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        deltas = [_part_delta(part) for part in self._parsers[index].push(delta.text)]
        if not deltas and self.wants_tokens:
            deltas = [{"content": ""}]
        choices = [self._choice(index, part) for part in deltas]
        if choices:
            choices[0]["logprobs"] = self._logprobs(delta.tokens)
        return choices

    def last(self, index: int, finish: Finish) -> list[dict[str, Any]]:
        parser = self._parsers[index]
        rest = [self._choice(index, _part_delta(part)) for part in parser.flush()]
        return [*rest, self._choice(index, {}, _finish_reason(finish, n_calls=parser.n_calls))]

    def _choice(self, index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Sampled]) -> dict[str, Any] | None:
        assert isinstance(self.body, ChatBody)
        if not self.body.logprobs:
            return None
        n_top = self.body.top_logprobs or 0
        content = [
            {
                **self._token(token.id, token.logprob),
                "top_logprobs": [self._token(*pair) for pair in token.top[:n_top]],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        raw = self.tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(raw)}


class _CompletionShape(_Shape):
    whole_name = chunk_name = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, job: Job, body: CompletionBody) -> None:
        super().__init__(job, body)
        # Where the next token of each choice begins in its text.
        self._offsets = [len(self._echo(index)) for index in range(len(job.answers))]

    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        text = self._echo(index) + answer.text
        return self._choice(index, text, answer.tokens, _finish_reason(answer.finish))

    def first(self, index: int) -> dict[str, Any] | None:
        echo = self._echo(index)
        return self._choice(index, echo, ()) if echo else None

    def pieces(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        return [self._choice(index, delta.text, delta.tokens)]

    def last(self, index: int, finish: Finish) -> list[dict[str, Any]]:
        return [self._choice(index, "", (), _finish_reason(finish))]

    def _echo(self, index: int) -> str:
        assert isinstance(self.body, CompletionBody)
        return self.tokenizer.decode(self.job.answers[index].request.prompt) if self.body.echo else ""

    def _choice(
        self, index: int, text: str, tokens: Sequence[Sampled], reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._logprobs(index, tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, index: int, tokens: Sequence[Sampled]) -> dict[str, Any] | None:
        assert isinstance(self.body, CompletionBody)
        if self.body.logprobs is None:
            return None
        texts = [self._text(token.id) for token in tokens]
        n_top = self.body.logprobs
        *offsets, self._offsets[index] = accumulate(map(len, texts), initial=self._offsets[index])
        return {
            "tokens": texts,
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {self._text(other): _finite(logprob) for other, logprob in token.top[:n_top]}
                for token in tokens
            ],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def _stats(answer: Answer) -> Stats:
    assert answer.finish is not None
    return answer.finish.stats


def _tool_call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _part_delta(part: Part) -> dict[str, Any]:
    """A part of an answer as a stream carries it."""
    if isinstance(part, Words):
        return {"content": part.text}
    if isinstance(part, Thought):
        return {"reasoning_content": part.text}
    if part.name is None:
        return {"tool_calls": [{"index": part.index, "function": {"arguments": part.arguments}}]}
    return {"tool_calls": [{"index": part.index, **_tool_call(part.name, part.arguments)}]}


def _finish_reason(finish: Finish | None, *, n_calls: int = 0) -> str:
    """OpenAI knows one word for every answer that was cut off."""
    if n_calls and finish is not None and finish.reason == "stop":
        return "tool_calls"
    return "stop" if finish is not None and finish.reason == "stop" else "length"


def _finite(logprob: float | None) -> float:
    """JSON has no infinity; OpenAI writes -9999 for a token that cannot be."""
    return -9999.0 if logprob is None or not math.isfinite(logprob) else logprob


async def _token_lists(given: str | list[str] | list[int] | list[list[int]], model: Model) -> list[list[int]]:
    """The token ids of each of the texts, which may be given as ids."""
    if isinstance(given, str):
        given = [given]
    if given and isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    if given and isinstance(given[0], str):
        return await tokenized(model, [text for text in given if isinstance(text, str)])
    return [list(ids) for ids in given if isinstance(ids, list)]


def _vector(row: NDArray[np.float32], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(value) for value in row]


def _model(source: Source) -> dict[str, Any]:
    return {
        "id": source.name,
        "object": "model",
        "created": source.created,
        "owned_by": "edgellm",
        "status": {"value": source.state},
    }


def _adapted(name: str, source: Source) -> dict[str, Any]:
    """A model with an adapter, as vLLM lists it."""
    return {**_model(source), "id": name, "parent": source.name}
