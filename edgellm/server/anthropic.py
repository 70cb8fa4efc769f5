"""The Anthropic Messages API.

Source: Anthropic's API reference (Messages, Streaming messages, Count tokens). Tokens found in the prefix
cache are counted as read from the cache, and not again as input.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgellm.engine.options import GenerateOptions
from edgellm.server.anthropic_bodies import MessagesBody, PromptBody
from edgellm.server.anthropic_content import conversation
from edgellm.server.anthropic_shape import MessageShape
from edgellm.server.description import SSE, answers
from edgellm.server.routes import JSONRoute
from edgellm.server.service import Chat, ServiceOf

_answers = partial(answers, error="AnthropicError")
router = APIRouter(tags=["Anthropic"], route_class=JSONRoute)


@router.post("/messages", responses=_answers("Message", SSE))
async def messages(body: MessagesBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation; a last message of the assistant is the beginning of the answer."""
    chat = _chat(body, body.generate_options())
    return await service.answer(request, body, chat.prompt, MessageShape, streams=body.stream)


@router.post("/messages/count_tokens", responses=_answers("TokenCount"))
async def count_tokens(body: PromptBody, service: ServiceOf) -> Response:
    """Count the tokens of a conversation."""
    chat = _chat(body, GenerateOptions())
    async with service.models.use(body.model) as loaded:
        prompt = await chat.prompt(loaded)
    return JSONResponse({"input_tokens": len(prompt.ids[0])}, headers=body.ignored(prompt.ignored))


def _chat(body: PromptBody, options: GenerateOptions) -> Chat:
    chosen = body.chosen()
    return Chat(
        conversation(body),
        options,
        tools=chosen.tools,
        choice=chosen.choice,
        thinking=body.thoughts(),
        prefill=True,
    )
