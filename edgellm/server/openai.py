"""The OpenAI API: chat completions, completions, embeddings, models."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from edgellm.engine.embedding import prompt_text
from edgellm.engine.model import Model
from edgellm.server.description import SSE, answers
from edgellm.server.errors import RequestError
from edgellm.server.infill import fill_in
from edgellm.server.messages import read_messages
from edgellm.server.openai_bodies import ChatBody, CompletionBody, EmbeddingBody, TextOrTokens
from edgellm.server.openai_shapes import ChatShape, CompletionShape
from edgellm.server.routes import JSONRoute
from edgellm.server.served import Served, Source
from edgellm.server.service import Chat, Prompt, ServiceOf, tokenized
from edgellm.server.sse import Stream, unless_gone

router = APIRouter(tags=["OpenAI"], route_class=JSONRoute)


@router.get("/models", responses=answers("Models"))
async def list_models(service: ServiceOf) -> dict[str, Any]:
    """All models this server offers."""
    models = service.models
    models.refresh()
    adapted = [_adapted(info.name, source) for source in models.sources for info in models.adapters]
    return {"object": "list", "data": [*map(_model, models.sources), *adapted]}


@router.get("/models/{name:path}", responses=answers("Model"))
async def get_model(name: str, service: ServiceOf) -> dict[str, Any]:
    """One model."""
    source = service.models.find(name)
    adapter = service.models.adapter(name)
    return _model(source) if adapter is None else _adapted(adapter.name, source)


@router.post("/chat/completions", responses=answers("ChatCompletion", SSE))
async def chat_completions(body: ChatBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    body.check()
    options = body.options(
        max_tokens=body.limit(), logprobs=(body.top_logprobs or 0) if body.logprobs else None
    )
    chosen = body.chosen()
    chat = Chat(
        read_messages(body.messages),
        body.constrained(options),
        tools=chosen.tools,
        choice=chosen.choice,
        variables=body.chat_template_kwargs or {},
        thinking=body.thoughts(),
        prefill=body.continue_final_message,
        truncate=body.truncation == "auto",
        n=body.n,
    )
    return await service.answer(
        request, body, chat.prompt, ChatShape, streams=body.stream, kept_as=body.answer_id
    )


@router.get("/answers/{answer_id}", responses=answers("ChatCompletion", SSE))
async def follow_answer(answer_id: str, service: ServiceOf) -> Response:
    """Stream a kept answer from its beginning, and on as it comes."""
    service.kept.find(answer_id)
    return Stream(service.kept.follow(answer_id), service.settings.limits, on_end=lambda: None)


@router.delete("/answers/{answer_id}", responses=answers("Stopped"))
async def stop_answer(answer_id: str, service: ServiceOf) -> dict[str, Any]:
    """End a kept answer; its stream ends with what it cost."""
    service.kept.find(answer_id).stop()
    return {"id": answer_id, "object": "answer.stopped"}


@router.post("/completions", responses=answers("Completion", SSE))
async def completions(body: CompletionBody, request: Request, service: ServiceOf) -> Response:
    """Continue a text, or fill in what is missing before `suffix`."""
    body.check()
    return await service.answer(
        request, body, partial(_completion, body), CompletionShape, streams=body.stream
    )


async def _completion(body: CompletionBody, loaded: Served) -> Prompt:
    options = body.constrained(body.options(max_tokens=body.limit(), logprobs=body.logprobs))
    model = loaded.model
    if body.suffix:
        if not isinstance(body.prompt, str):
            raise RequestError(400, "suffix needs a prompt that is one text.", param="suffix")
        prompts = [await asyncio.to_thread(fill_in, model, body.prompt, body.suffix)]
    else:
        prompts = await _token_lists(body.prompt, model, parse_special=True)
    await asyncio.to_thread(model.compile_grammar, options)
    echoed = []
    if body.echo and body.logprobs is not None:
        for ids in prompts:
            work = partial(model.token_logprobs, ids, body.logprobs, lora=loaded.lora)
            echoed.append(await asyncio.wrap_future(loaded.runner.call(work)))
    return Prompt(prompts, options, body.n, echoed=echoed)


@router.post("/embeddings", responses=answers("Embeddings"))
async def embeddings(body: EmbeddingBody, request: Request, service: ServiceOf) -> Response:
    """Embed texts."""
    most = service.settings.limits.inputs
    async with service.models.use(body.model) as loaded:
        prompt = prompt_text(loaded.model.metadata, body.prompt_name)
        texts = await _token_lists(_with_prompt(body.input, prompt), loaded.model)
        vectors = await unless_gone(request, service.embed(loaded, texts, body.dimensions, most=most))
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


def _with_prompt(given: TextOrTokens, prompt: str) -> TextOrTokens:
    """The texts with a prompt before each; ids stay as they are."""
    if isinstance(given, str):
        return prompt + given
    return [prompt + entry for entry in given if isinstance(entry, str)] or given


async def _token_lists(given: TextOrTokens, model: Model, *, parse_special: bool = False) -> list[list[int]]:
    """The token ids of each of the texts, which may be given as ids."""
    if isinstance(given, str):
        given = [given]
    if given and isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    if given and isinstance(given[0], str):
        texts = [text for text in given if isinstance(text, str)]
        return await tokenized(model, texts, parse_special=parse_special)
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
