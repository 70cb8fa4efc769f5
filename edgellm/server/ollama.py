"""The Ollama API: chat, generate, embed, and what the models are.

Source: Ollama's API documentation (docs/api.md). Differences: a text longer than the context is an error
unless `truncate` asks for less of it; models stay loaded unless `keep_alive` or --idle-unload says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BeforeValidator, Field

from edgellm import __version__
from edgellm.chat.parts import PartParser
from edgellm.chat.tools import ToolChoice, read_tools
from edgellm.engine.describe import Description, describe
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Finish
from edgellm.engine.sampling import Sampled
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Answer, Job
from edgellm.server.blocks import Block, Blocks
from edgellm.server.durations import duration
from edgellm.server.errors import RequestError, ollama_error
from edgellm.server.models import Source
from edgellm.server.service import Body, SamplingFields, Service, ServiceOf, tokenized
from edgellm.server.sse import unless_gone

MAX_TOP_LOGPROBS = 20
NEVER = "9999-12-31T23:59:59Z"
_FAR_S = 100 * 365 * 24 * 3600.0


class _JSONRoute(APIRoute):
    """Bodies are JSON whatever their content type says, so that a plain `curl -d` works."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def as_json(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
            return await handler(Request({**request.scope, "headers": headers}, request.receive))

        return as_json


router = APIRouter(prefix="/api", tags=["Ollama"], route_class=_JSONRoute)


def _keep_alive(value: object) -> float | None:
    """Seconds that a model stays loaded without requests; None: as before."""
    return None if value is None else duration(value)


class Options(SamplingFields):
    """The `options` of a request."""

    num_predict: int | None = None
    repeat_last_n: int | None = None


KeepAlive = Annotated[float | None, BeforeValidator(_keep_alive)]


class GenerationBody(Body):
    """What chat and generate share."""

    model: str
    keep_alive: KeepAlive = None
    stream: bool | None = None
    options: Options | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    def unread(self) -> list[str]:
        return [*super().unread(), *(f"options.{name}" for name in (self.options or Options()).unread())]

    def generate_options(self) -> GenerateOptions:
        """Generation options; RequestError or UsageError for what cannot be done."""
        if isinstance(self.format, str) and self.format not in ("", "json"):
            raise RequestError(400, "format must be json or a JSON schema.", param="format")
        fields = self.options or Options()
        n_predict = fields.num_predict
        options = fields.options(
            max_tokens=None if n_predict is None or n_predict < 0 else n_predict,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
        if fields.repeat_last_n is not None:
            options = replace(options, penalty_last_n=fields.repeat_last_n)
        if isinstance(self.format, dict):
            return replace(options, schema=self.format)
        return replace(options, json=self.format == "json")

    def variables(self) -> dict[str, Any]:
        """What the template is told besides the messages."""
        return {} if self.think is None else {"enable_thinking": bool(self.think)}


class ChatBody(GenerationBody):
    """POST /api/chat."""

    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None


class GenerateBody(GenerationBody):
    """POST /api/generate."""

    prompt: str = ""
    system: str = ""
    raw: bool = False
    suffix: str = ""
    template: str = ""
    images: list[Any] | None = None


class EmbedBody(Body):
    """POST /api/embed."""

    model: str
    keep_alive: KeepAlive = None
    input: str | list[str]
    truncate: bool = False
    dimensions: int | None = None


class OldEmbedBody(Body):
    """POST /api/embeddings, which newer clients no longer use."""

    model: str
    keep_alive: KeepAlive = None
    prompt: str


class ShowBody(Body):
    """POST /api/show; older clients say name for model."""

    model: str | None = None
    name: str | None = None


@router.post("/chat")
async def chat(body: ChatBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    if any(message.get("images") for message in body.messages):
        raise RequestError(400, "A message holds images; only text is supported.", param="images")
    options = body.generate_options()
    if not body.messages:
        return await _only_loaded(service, body, {"message": _message("")})
    begin = time.perf_counter()
    async with service.models.use(body.model, body.keep_alive) as loaded:
        load_s = time.perf_counter() - begin
        prepared = await service.conversation(
            loaded.model,
            body.messages,
            options,
            tools=read_tools(body.tools or ()),
            choice=ToolChoice() if body.tools else None,
            variables=body.variables(),
            prefill=True,
        )
        job = service.start(loaded, [prepared.ids], prepared.options, shown=prepared.shown)
    return await _respond(_ChatShape(job, body, prepared.parser(), load_s), request, service)


@router.post("/generate")
async def generate(body: GenerateBody, request: Request, service: ServiceOf) -> Response:
    """Answer a prompt; raw: continue it."""
    for name in ("suffix", "template", "images"):
        if getattr(body, name):
            raise RequestError(400, f"{name} is not supported.", param=name)
    options = body.generate_options()
    if not body.prompt:
        return await _only_loaded(service, body, {"response": ""})
    begin = time.perf_counter()
    async with service.models.use(body.model, body.keep_alive) as loaded:
        load_s = time.perf_counter() - begin
        if body.raw:
            encode = partial(loaded.model.tokenizer.encode, add_special=True, parse_special=True)
            ids = await asyncio.to_thread(encode, body.prompt)
            await asyncio.to_thread(loaded.model.compile_grammar, options)
            job, parser = service.start(loaded, [ids], options), PartParser()
        else:
            messages = [{"role": "system", "content": body.system}] if body.system else []
            messages.append({"role": "user", "content": body.prompt})
            prepared = await service.conversation(loaded.model, messages, options, variables=body.variables())
            job = service.start(loaded, [prepared.ids], prepared.options, shown=prepared.shown)
            parser = prepared.parser()
    return await _respond(_GenerateShape(job, body, parser, load_s), request, service)


@router.post("/embed")
async def embed(body: EmbedBody, request: Request, service: ServiceOf) -> Response:
    """Embed texts."""
    if not body.input:
        return await _only_loaded(service, body, {"embeddings": []})
    begin = time.perf_counter()
    async with service.models.use(body.model, body.keep_alive) as loaded:
        load_s = time.perf_counter() - begin
        texts = [body.input] if isinstance(body.input, str) else body.input
        ids = await tokenized(loaded.model, texts)
        if body.truncate:
            ids = [one[: loaded.model.n_ctx] for one in ids]
        vectors = await unless_gone(request, service.embed(loaded, ids, body.dimensions))
    content = {
        "model": loaded.name,
        "embeddings": vectors.tolist(),
        "total_duration": _ns(time.perf_counter() - begin),
        "load_duration": _ns(load_s),
        "prompt_eval_count": sum(map(len, ids)),
    }
    return JSONResponse(content, headers=body.ignored())


@router.post("/embeddings")
async def old_embed(body: OldEmbedBody, request: Request, service: ServiceOf) -> Response:
    """Embed one text."""
    async with service.models.use(body.model, body.keep_alive) as loaded:
        ids = await tokenized(loaded.model, [body.prompt])
        vectors = await unless_gone(request, service.embed(loaded, ids))
    return JSONResponse({"embedding": vectors[0].tolist()}, headers=body.ignored())


@router.get("/tags")
async def tags(service: ServiceOf) -> dict[str, Any]:
    """All models this server offers."""
    service.models.refresh()
    models = []
    for source in service.models.sources:
        listed = await asyncio.to_thread(_listed, source)
        details = {**listed["details"], "parent_model": source.name}
        names = [info.name for info in service.models.adapters]
        models += [listed, *({**listed, "name": n, "model": n, "details": details} for n in names)]
    return {"models": models}


@router.get("/ps")
async def ps(service: ServiceOf) -> dict[str, Any]:
    """The models in memory."""
    models = []
    for source in service.models.sources:
        if (loaded := source.loaded) is not None:
            listed = await asyncio.to_thread(_listed, source)
            context = {"context_length": loaded.model.n_ctx, "size_vram": 0}
            models.append({**listed, **context, "size": loaded.n_bytes, "expires_at": _in(loaded.left_s)})
    return {"models": models}


@router.post("/show")
async def show(body: ShowBody, service: ServiceOf) -> dict[str, Any]:
    """What a model is."""
    source = service.models.find(body.model or body.name)
    found = await asyncio.to_thread(describe, source.path)
    template = found.metadata.get("tokenizer.chat_template")
    return {
        "license": found.license,
        "modelfile": f"# {source.name} is served from a GGUF file; there is no Modelfile.\n",
        "parameters": _parameters(found),
        "template": template if isinstance(template, str) else "",
        "details": _details(found),
        "model_info": found.metadata,
        "capabilities": ["completion", "tools"] if found.generates else ["embedding"],
        "modified_at": found.modified_at.isoformat(),
    }


@router.get("/version")
async def version() -> dict[str, str]:
    """edgellm's version."""
    return {"version": __version__}


class _Shape(ABC):
    """One answer in the making: what is the same for chat and generate."""

    def __init__(self, job: Job, body: GenerationBody, parser: PartParser, load_s: float) -> None:
        self.job = job
        self.body = body
        self._load_s = load_s
        self._blocks = Blocks(parser)
        self._tokenizer = job.loaded.model.tokenizer

    @abstractmethod
    def text(self, words: str, thoughts: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        """An answer, whole or in part."""

    def whole(self) -> dict[str, Any]:
        """The answer, complete."""
        answer: Answer = self.job.answers[0]
        assert answer.finish is not None
        blocks = self._blocks
        blocks.read(answer.text)
        text = self.text(blocks.text("words"), blocks.text("thought"), blocks.calls)
        return self._last(text, answer.tokens, answer.finish)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's lines; a call is sent whole, once another block or the end follows it."""
        n_sent = 0
        try:
            async for _, event in self.job.events():
                ended = isinstance(event, Finish)
                tokens = event.tokens if isinstance(event, Delta) else ()
                pushed = self._blocks.push(event) if isinstance(event, Delta) else self._blocks.flush()
                words, thoughts = "", ""
                for block, added in pushed:
                    words += added if block.kind == "words" else ""
                    thoughts += added if block.kind == "thought" else ""
                known = self._blocks.all if ended else self._blocks.all[:-1]
                calls = [block for block in known[n_sent:] if block.kind == "call"]
                n_sent = max(n_sent, len(known))
                if words or thoughts or calls or (self.body.logprobs and tokens):
                    yield _line(self._piece(self.text(words, thoughts, calls), tokens))
                if isinstance(event, Finish):
                    yield _line(self._last(self.text(""), (), event))
        except EdgeLLMError as error:
            yield _line(ollama_error(error))

    def _piece(self, text: dict[str, Any], tokens: Sequence[Sampled]) -> dict[str, Any]:
        return {**_head(self.job.loaded.name), **text, **self._logprobs(tokens), "done": False}

    def _last(self, text: dict[str, Any], tokens: Sequence[Sampled], finish: Finish) -> dict[str, Any]:
        stats = finish.stats
        return {
            **_head(self.job.loaded.name),
            **text,
            **self._logprobs(tokens),
            "done": True,
            "done_reason": "stop" if finish.reason == "stop" else "length",
            "total_duration": _ns(self._load_s + stats.queue_s + stats.prompt_s + stats.generate_s),
            "load_duration": _ns(self._load_s),
            "prompt_eval_count": stats.n_prompt,
            "prompt_eval_duration": _ns(stats.prompt_s),
            "eval_count": stats.n_generated,
            "eval_duration": _ns(stats.generate_s),
        }

    def _logprobs(self, tokens: Sequence[Sampled]) -> dict[str, Any]:
        if not self.body.logprobs or not tokens:
            return {}
        n_top = self.body.top_logprobs or 0
        found = [
            {
                **self._token(token.id, token.logprob),
                "top_logprobs": [self._token(*p) for p in token.top[:n_top]],
            }
            for token in tokens
        ]
        return {"logprobs": found}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token)
        finite = -9999.0 if logprob is None or not math.isfinite(logprob) else logprob
        return {"token": raw.decode("utf-8", "replace"), "logprob": finite, "bytes": list(raw)}


class _ChatShape(_Shape):
    def text(self, words: str, thoughts: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        message = _message(words)
        if thoughts:
            message["thinking"] = thoughts
        # A call that was cut off is none.
        complete = [(call.name, arguments) for call in calls if (arguments := call.arguments()) is not None]
        if complete:
            message["tool_calls"] = [{"function": {"name": n, "arguments": a}} for n, a in complete]
        return {"message": message}


class _GenerateShape(_Shape):
    def text(self, words: str, thoughts: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        return {"response": words, **({"thinking": thoughts} if thoughts else {})}


async def _respond(shape: _Shape, request: Request, service: Service) -> Response:
    """The lines, unless the request says that it wants no stream."""
    streams = shape.body.stream is not False
    return await service.respond(
        request,
        shape.job,
        shape.body,
        whole=shape.whole,
        chunks=shape.chunks() if streams else None,
        media_type="application/x-ndjson",
        ping=b"",  # clients read every line as JSON
    )


async def _only_loaded(service: Service, body: GenerationBody | EmbedBody, text: dict[str, Any]) -> Response:
    """The answer to a request without a prompt, by which clients have a model loaded, or unloaded."""
    if body.keep_alive == 0:
        name, reason = service.models.unload(body.model).name, "unload"
    else:
        async with service.models.use(body.model, body.keep_alive) as loaded:
            name, reason = loaded.name, "load"
    content = {**_head(name), **text, "done": True, "done_reason": reason}
    return JSONResponse(content, headers=body.ignored())


def _head(name: str) -> dict[str, Any]:
    return {"model": name, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _in(seconds: float) -> str:
    """The time so many seconds from now; far off for what never comes."""
    if seconds > _FAR_S:
        return NEVER
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _listed(source: Source) -> dict[str, Any]:
    found = describe(source.path)
    return {
        "name": source.name,
        "model": source.name,
        "modified_at": found.modified_at.isoformat(),
        "size": found.n_bytes,
        "digest": found.fingerprint,
        "details": _details(found),
    }


def _details(found: Description) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": found.family,
        "families": [found.family],
        "parameter_size": found.size_label,
        "quantization_level": found.quantization,
    }


def _parameters(found: Description) -> str:
    """The sampling values that the file recommends, one a line."""
    prefix = "general.sampling."
    return "\n".join(
        f"{key.removeprefix(prefix)} {value}"
        for key, value in found.metadata.items()
        if key.startswith(prefix)
    )
