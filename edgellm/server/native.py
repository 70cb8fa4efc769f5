"""edgellm's own endpoints: health, metrics, properties, tokens, templates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import Field

from edgellm import __version__
from edgellm.chat.template import template_source
from edgellm.engine.describe import describe
from edgellm.engine.loading import LoadEstimate
from edgellm.engine.options import sampling_defaults
from edgellm.engine.request import Finish
from edgellm.errors import EdgeLLMError, UnsupportedError
from edgellm.server.bodies import Body, ModelBody, SamplingFields
from edgellm.server.description import SSE, answers
from edgellm.server.errors import RETRY_AFTER_S, RequestError, openai_error
from edgellm.server.infill import fill_in
from edgellm.server.messages import read_messages
from edgellm.server.routes import JSONRoute
from edgellm.server.served import Served
from edgellm.server.service import Prompt, ServiceOf, Shape, template_variables, timings
from edgellm.server.sse import data_event

router = APIRouter(tags=["edgellm"], route_class=JSONRoute)


class TokenizeBody(ModelBody):
    """POST /tokenize; the defaults are those of llama.cpp's server."""

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(ModelBody):
    """POST /detokenize."""

    tokens: list[int]


class TemplateBody(ModelBody):
    """POST /apply-template."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


class ExtraFile(Body):
    """Another file of the project."""

    text: str
    filename: str = "file"


class InfillBody(ModelBody, SamplingFields):
    """POST /infill, as llama.cpp's server has it."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] = Field(default_factory=list)
    prompt: str = ""
    n_predict: int | None = None
    stream: bool = False


class InfillShape(Shape[InfillBody]):
    """A text that was filled in."""

    def whole(self) -> dict[str, Any]:
        """The text, complete."""
        answer, finish = self.only
        return self._end(answer.text, finish)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's events."""
        try:
            async for _, event in self.job.events():
                if isinstance(event, Finish):
                    yield data_event(self._end("", event))
                elif event.text:
                    yield data_event({"content": event.text, "stop": False})
        except EdgeLLMError as error:
            yield data_event(openai_error(error))

    def _end(self, text: str, finish: Finish) -> dict[str, Any]:
        return {
            "content": text,
            "stop": True,
            "stop_type": "limit" if finish.reason != "stop" else "word" if finish.stop else "eos",
            "model": self.job.loaded.name,
            "tokens_evaluated": finish.stats.n_prompt,
            "tokens_predicted": finish.stats.n_generated,
            "timings": timings(finish.stats),
        }


@router.get("/health", responses=answers("Health", waits=True))
async def health(service: ServiceOf) -> Response:
    """Say that requests are answered: 503 while models are being loaded."""
    if service.models.ready:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading"}, 503, {"Retry-After": str(RETRY_AFTER_S)})


@router.get("/metrics", responses=answers(), response_class=PlainTextResponse)
async def metrics(service: ServiceOf) -> Response:
    """Counters for Prometheus."""
    text = service.metrics.render(service.models)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.get("/props", responses=answers("Properties"))
async def props(service: ServiceOf, model: str | None = None) -> dict[str, Any]:
    """Describe a model, and how it is or would be loaded: asking does not load it."""
    manager = service.models
    source, adapter = manager.find(model), manager.adapter(model)
    if source.loaded is None:
        found = await manager.estimate(source)
    else:
        own = source.loaded.model
        found = LoadEstimate(own.n_ctx, own.n_vocab, own.threads, own.memory)
    metadata = (await asyncio.to_thread(describe, source.path)).metadata
    return {
        "model": source.name if adapter is None else adapter.name,
        "state": source.state,
        "n_ctx": found.n_ctx,
        "n_vocab": found.n_vocab,
        "threads": found.threads,
        "memory_bytes": found.memory,
        "default_generation_settings": sampling_defaults(metadata),
        "chat_template": template_source(metadata),
        "build_info": f"edgellm {__version__}",
        "keeps_chats": service.settings.chats is not None,
    }


@router.get("/lora-adapters", responses=answers("Adapters"))
async def lora_adapters(service: ServiceOf) -> list[dict[str, Any]]:
    """The adapters that requests may choose among, and what answers use of them otherwise."""
    return [
        {"id": number, "name": info.name, "path": info.path.name, "scale": info.scale}
        for number, info in enumerate(service.models.adapters)
    ]


@router.post("/tokenize", responses=answers("Tokens"))
async def tokenize(body: TokenizeBody, service: ServiceOf) -> dict[str, Any]:
    """Token ids of a text, with the text of each if asked for."""
    async with service.models.use(body.model) as loaded:
        tokenizer = loaded.model.tokenizer
        special = {"add_special": body.add_special, "parse_special": body.parse_special}
        ids = await asyncio.to_thread(tokenizer.encode, body.content, **special)
        if not body.with_pieces:
            return {"tokens": ids}
        pieces = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]
        return {"tokens": [{"id": i, "piece": piece} for i, piece in zip(ids, pieces, strict=True)]}


@router.post("/detokenize", responses=answers("Content"))
async def detokenize(body: DetokenizeBody, service: ServiceOf) -> dict[str, str]:
    """The text of token ids."""
    async with service.models.use(body.model) as loaded:
        return {"content": await asyncio.to_thread(loaded.model.detokenize, body.tokens)}


@router.post("/apply-template", responses=answers("Prompt"))
async def apply_template(body: TemplateBody, service: ServiceOf) -> dict[str, str]:
    """The prompt that a conversation becomes."""
    async with service.models.use(body.model) as loaded:
        render = partial(
            loaded.model.template.render,
            read_messages(body.messages),
            add_generation_prompt=body.add_generation_prompt,
            tools=body.tools,
            **template_variables(body.chat_template_kwargs),
        )
        try:
            return {"prompt": await asyncio.to_thread(render)}
        except UnsupportedError as error:
            raise RequestError(400, str(error), param="messages") from None


@router.post("/infill", responses=answers("Infill", SSE))
async def infill(body: InfillBody, request: Request, service: ServiceOf) -> Response:
    """Fill in the text between a prefix and a suffix."""
    options = body.options(max_tokens=body.n_predict)
    files = [(extra.filename, extra.text) for extra in body.input_extra]

    async def prepare(loaded: Served) -> Prompt:
        before = body.input_prefix + body.prompt
        ids = await asyncio.to_thread(fill_in, loaded.model, before, body.input_suffix, files)
        return Prompt([ids], options)

    return await service.answer(request, body, prepare, InfillShape, streams=body.stream)
