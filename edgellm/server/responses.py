"""The OpenAI Responses API, stateless: a conversation is sent whole each time.

Source: OpenAI's API reference (Responses, Streaming events).
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgellm.server.description import SSE, answers
from edgellm.server.errors import RequestError
from edgellm.server.messages import read_messages
from edgellm.server.responses_bodies import ResponsesBody, conversation
from edgellm.server.responses_shape import ResponseShape
from edgellm.server.routes import JSONRoute
from edgellm.server.service import Chat, ServiceOf

router = APIRouter(tags=["OpenAI"], route_class=JSONRoute)


@router.post("/responses", responses=answers("Response", SSE))
async def responses(body: ResponsesBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    for name in ("previous_response_id", "conversation", "prompt", "background"):
        if getattr(body, name):
            raise RequestError(
                400,
                f"{name} is not supported: this server keeps no responses; send the whole input.",
                param=name,
            )
    chosen = body.chosen()
    chat = Chat(
        read_messages(conversation(body)),
        body.generate_options(),
        tools=chosen.tools,
        choice=chosen.choice,
        thinking=body.thoughts(),
        truncate=body.truncation == "auto",
    )
    return await service.answer(request, body, chat.prompt, ResponseShape, streams=body.stream)
