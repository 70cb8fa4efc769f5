"""The Ollama API: chat, generate, embed, and what the models are.

Source: Ollama's API documentation (docs/api.md). Differences: a text longer than the context is an error
unless `truncate` asks for less of it; models stay loaded unless `keep_alive` or --idle-unload says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgellm import __version__
from edgellm.engine.describe import Description, describe
from edgellm.engine.embedding import prompt_text
from edgellm.engine.lengths import longest_token
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.errors import EdgeLLMError, one_line
from edgellm.server.choices import choose
from edgellm.server.description import NDJSON, answers
from edgellm.server.errors import RequestError
from edgellm.server.go_template import expand
from edgellm.server.infill import fill_in
from edgellm.server.messages import read_messages
from edgellm.server.ollama_bodies import (
    ChatBody,
    EmbedBody,
    GenerateBody,
    GenerationBody,
    OldEmbedBody,
    ShowBody,
)
from edgellm.server.ollama_shapes import ChatShape, GenerateShape, OllamaShape, head, message_of, nanoseconds
from edgellm.server.routes import JSONRoute
from edgellm.server.served import Served, Source
from edgellm.server.service import Chat, Prompt, Service, ServiceOf, tokenized
from edgellm.server.sse import unless_gone

log = logging.getLogger("edgellm.server")

NEVER = "9999-12-31T23:59:59Z"
_FAR_S = 100 * 365 * 24 * 3600.0

B = TypeVar("B", bound=GenerationBody)

_answers = partial(answers, error="OllamaError")
router = APIRouter(prefix="/api", tags=["Ollama"], route_class=JSONRoute)


@router.post("/chat", responses=_answers("OllamaChat", NDJSON))
async def chat(body: ChatBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    if any(message.get("images") for message in body.messages):
        raise RequestError(400, "A message holds images; only text is supported.", param="images")
    options = body.generate_options()
    if not body.messages:
        return await _only_loaded(service, body, {"message": message_of("")})
    chosen = choose(body.tools, body.tool_choice)
    chat = Chat(
        read_messages(body.messages, silent=True),
        options,
        tools=chosen.tools,
        choice=chosen.choice,
        thinking=body.thoughts(),
        prefill=True,
    )
    return await _answer(service, request, body, chat.prompt, ChatShape)


@router.post("/generate", responses=_answers("OllamaGenerate", NDJSON))
async def generate(body: GenerateBody, request: Request, service: ServiceOf) -> Response:
    """Answer a prompt; raw: continue it; suffix: fill in what is missing before it."""
    if body.images:
        raise RequestError(400, "images are not supported; only text is.", param="images")
    options = body.generate_options()
    if not body.prompt:
        return await _only_loaded(service, body, {"response": ""})
    if body.raw or body.template or body.suffix:
        prepare: Callable[[Served], Awaitable[Prompt]] = partial(_continued, body, options)
    else:
        messages = [{"role": "system", "content": body.system}] if body.system else []
        messages.append({"role": "user", "content": body.prompt})
        prepare = Chat(messages, options, thinking=body.thoughts()).prompt
    return await _answer(service, request, body, prepare, GenerateShape)


async def _continued(body: GenerateBody, options: GenerateOptions, loaded: Served) -> Prompt:
    """The prompt as it is, in the request's own template, or with the gap before a suffix."""
    model, text = loaded.model, body.prompt
    ignored = () if body.think is None else ("think",)
    await asyncio.to_thread(model.compile_grammar, options)
    if body.suffix:
        ids = [await asyncio.to_thread(fill_in, model, text, body.suffix)]
        return Prompt(ids, options, ignored=ignored)
    if body.template and not body.raw:
        text = expand(body.template, {"Prompt": text, "System": body.system, "Response": ""})
    return Prompt(await tokenized(model, [text], parse_special=True), options, ignored=ignored)


async def _answer(
    service: Service,
    request: Request,
    body: B,
    prepare: Callable[[Served], Awaitable[Prompt]],
    shape: type[OllamaShape[B]],
) -> Response:
    """Answer in lines, unless the request says that it wants no stream."""
    streams = body.stream is not False
    keep_s, n_ctx = body.keep_alive, body.num_ctx
    return await service.answer(request, body, prepare, shape, streams=streams, keep_s=keep_s, n_ctx=n_ctx)


@router.post("/embed", responses=_answers("OllamaEmbeddings"))
async def embed(body: EmbedBody, request: Request, service: ServiceOf) -> Response:
    """Embed texts."""
    if not body.input:
        return await _only_loaded(service, body, {"embeddings": []})
    begin = time.perf_counter()
    async with service.models.use(body.model, body.keep_alive) as loaded:
        load_s = time.perf_counter() - begin
        texts = [body.input] if isinstance(body.input, str) else body.input
        texts = [prompt_text(loaded.model.metadata) + text for text in texts]
        # No token is longer than what is cut off here.
        most = longest_token(loaded.model.tokenizer) * loaded.model.n_ctx if body.truncate else None
        ids = await tokenized(loaded.model, texts, n_chars=most)
        if body.truncate:
            ids = [_cut(loaded.model, one) for one in ids]
        vectors = await unless_gone(request, service.embed(loaded, ids, body.dimensions))
    content = {
        "model": loaded.name,
        "embeddings": vectors.tolist(),
        "total_duration": nanoseconds(time.perf_counter() - begin),
        "load_duration": nanoseconds(load_s),
        "prompt_eval_count": sum(map(len, ids)),
    }
    return JSONResponse(content, headers=body.ignored())


@router.post("/embeddings", responses=_answers("OllamaEmbedding"))
async def old_embed(body: OldEmbedBody, request: Request, service: ServiceOf) -> Response:
    """Embed one text."""
    if not body.prompt:
        return await _only_loaded(service, body, {"embedding": []}, ends=False)
    async with service.models.use(body.model, body.keep_alive) as loaded:
        ids = await tokenized(loaded.model, [prompt_text(loaded.model.metadata) + body.prompt])
        vectors = await unless_gone(request, service.embed(loaded, ids))
    return JSONResponse({"embedding": vectors[0].tolist()}, headers=body.ignored())


@router.get("/tags", responses=_answers("OllamaModels"))
async def tags(service: ServiceOf) -> dict[str, Any]:
    """All models this server offers."""
    service.models.refresh()
    models = []
    for source in service.models.sources:
        try:
            listed = await asyncio.to_thread(_listed, source)
        except (EdgeLLMError, OSError) as error:  # it has been damaged since it was found
            log.warning("%s is not listed: %s", source.name, one_line(error))
            continue
        details = {**listed["details"], "parent_model": source.name}
        names = [info.name for info in service.models.adapters]
        models += [listed, *({**listed, "name": n, "model": n, "details": details} for n in names)]
    return {"models": models}


@router.get("/ps", responses=_answers("OllamaRunning"))
async def ps(service: ServiceOf) -> dict[str, Any]:
    """The models in memory."""
    models = []
    for source in service.models.sources:
        if (loaded := source.loaded) is not None:
            listed = await asyncio.to_thread(_listed, source)
            context = {"context_length": loaded.model.n_ctx, "size_vram": 0}
            models.append({**listed, **context, "size": loaded.n_bytes, "expires_at": _in(loaded.left_s)})
    return {"models": models}


@router.post("/show", responses=_answers("OllamaModel"))
async def show(body: ShowBody, service: ServiceOf) -> dict[str, Any]:
    """Details of a model."""
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


@router.get("/version", responses=_answers("Version"))
async def version() -> dict[str, str]:
    """edgellm's version."""
    return {"version": __version__}


def _cut(model: Model, ids: list[int]) -> list[int]:
    """The beginning of a text that fits the context, with the tokens that end every text."""
    if len(ids) <= model.n_ctx:
        return ids
    frame = model.tokenizer.encode("", add_special=True)
    n_end = len(frame) - int(model.tokenizer.adds_bos)
    return ids[: model.n_ctx - n_end] + ids[len(ids) - n_end :]


async def _only_loaded(
    service: Service,
    body: GenerationBody | EmbedBody | OldEmbedBody,
    text: dict[str, Any],
    *,
    ends: bool = True,
) -> Response:
    """The answer to a request without a prompt, by which clients have a model loaded, or unloaded."""
    if body.keep_alive == 0:
        name, reason = service.models.unload(body.model).name, "unload"
    else:
        async with service.models.use(body.model, body.keep_alive) as loaded:
            name, reason = loaded.name, "load"
    content = {**head(name), **text, "done": True, "done_reason": reason} if ends else text
    return JSONResponse(content, headers=body.ignored())


def _in(seconds: float) -> str:
    """The time so many seconds from now; far off for what never comes."""
    if seconds > _FAR_S:
        return NEVER
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


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
