"""edgellm's own endpoints: health, metrics, properties, tokens, templates."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from edgellm import __version__
from edgellm.chat.template import template_source
from edgellm.engine.describe import describe
from edgellm.engine.loading import LoadEstimate
from edgellm.engine.options import sampling_defaults
from edgellm.errors import UnsupportedError
from edgellm.server.errors import RETRY_AFTER_S, RequestError
from edgellm.server.service import Body, ServiceOf, template_variables

router = APIRouter(tags=["edgellm"])


class TokenizeBody(Body):
    """POST /tokenize; the defaults are those of llama.cpp's server."""

    content: str
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None


class TemplateBody(Body):
    """POST /apply-template."""

    messages: list[dict[str, Any]]
    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


@router.get("/health")
async def health(service: ServiceOf) -> Response:
    """Whether requests are answered: 503 while models are being loaded."""
    if service.models.ready:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "loading"}, 503, {"Retry-After": str(RETRY_AFTER_S)})


@router.get("/metrics")
async def metrics(service: ServiceOf) -> Response:
    """Counters for Prometheus."""
    text = service.metrics.render(service.models)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.get("/props")
async def props(service: ServiceOf, model: str | None = None) -> dict[str, Any]:
    """What a model is, and how it is or would be loaded: asking does not load it."""
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
    }


@router.get("/lora-adapters")
async def lora_adapters(service: ServiceOf) -> list[dict[str, Any]]:
    """The adapters that requests may choose among, and what answers use of them otherwise."""
    return [
        {"id": number, "name": info.name, "path": info.path.name, "scale": info.scale}
        for number, info in enumerate(service.models.adapters)
    ]


@router.post("/tokenize")
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


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, service: ServiceOf) -> dict[str, str]:
    """The text of token ids."""
    async with service.models.use(body.model) as loaded:
        return {"content": await asyncio.to_thread(loaded.model.detokenize, body.tokens)}


@router.post("/apply-template")
async def apply_template(body: TemplateBody, service: ServiceOf) -> dict[str, str]:
    """The prompt that a conversation becomes."""
    async with service.models.use(body.model) as loaded:
        render = partial(
            loaded.model.template.render,
            body.messages,
            add_generation_prompt=body.add_generation_prompt,
            tools=body.tools,
            **template_variables(body.chat_template_kwargs),
        )
        try:
            return {"prompt": await asyncio.to_thread(render)}
        except UnsupportedError as error:
            raise RequestError(400, str(error), param="messages") from None
