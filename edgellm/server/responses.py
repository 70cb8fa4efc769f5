"""The OpenAI Responses API, stateless: a conversation is sent whole each time.

Source: OpenAI's API reference (Responses, Streaming events).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from edgellm.engine.request import Delta, Finish
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Job
from edgellm.server.errors import RequestError, openai_error
from edgellm.server.service import Body, SamplingFields, ServiceOf, timings
from edgellm.server.sse import data_event

router = APIRouter(tags=["OpenAI"])


class TextFormat(Body):
    """What the text has to be."""

    type: str = "text"


class TextConfig(Body):
    """The `text` of a request."""

    format: TextFormat | None = None


class ResponsesBody(SamplingFields):
    """POST /v1/responses."""

    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    text: TextConfig | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None


@router.post("/responses")
async def responses(body: ResponsesBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    for name in ("previous_response_id", "conversation", "prompt", "background"):
        if getattr(body, name):
            raise RequestError(
                400,
                f"{name} is not supported: this server keeps no responses; send the whole input.",
                param=name,
            )
    if body.text is not None and body.text.format is not None and body.text.format.type != "text":
        raise RequestError(400, "text.format must be of type text.", param="text.format")
    options = body.options(max_tokens=body.max_output_tokens)
    async with service.models.use(body.model) as loaded:
        ids, options = await service.chat_prompt(loaded.model, conversation(body), options)
        job = service.start(loaded, [ids], options)
    shape = _Shape(job, body)
    chunks = shape.chunks() if body.stream else None
    return await service.respond(request, job, body, whole=shape.whole, chunks=chunks)


def conversation(body: ResponsesBody) -> list[dict[str, Any]]:
    """The input as messages; RequestError names an item that is not supported."""
    found: list[dict[str, Any]] = []
    if body.instructions:
        found.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*found, {"role": "user", "content": body.input}]
    for number, item in enumerate(body.input):
        kind = item.get("type", "message")
        if kind == "message":
            found.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if found and found[-1].get("tool_calls"):
                found[-1]["tool_calls"].append(call)
            else:
                found.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            result = item.get("output")
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": result})
        elif kind != "reasoning":  # what it thought in earlier turns is not given to it again
            raise RequestError(
                400,
                f"input.{number} is of type {str(kind)[:40]!r}; the types are message, function_call, "
                "function_call_output and reasoning.",
                param=f"input.{number}.type",
            )
    return found


class _Shape:
    """One response in the making; events are numbered as they are made."""

    def __init__(self, job: Job, body: ResponsesBody) -> None:
        self._job = job
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._n_events = 0

    def whole(self) -> dict[str, Any]:
        """The response, complete."""
        finish = self._job.answers[0].finish
        assert finish is not None
        status = _status(finish)
        stats = finish.stats
        return {
            **self._response(status, [self._item(status)]),
            "incomplete_details": None if status == "completed" else {"reason": "max_output_tokens"},
            "usage": {
                "input_tokens": stats.n_prompt,
                "input_tokens_details": {"cached_tokens": stats.n_cached, "cache_write_tokens": 0},
                "output_tokens": stats.n_generated,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": stats.n_prompt + stats.n_generated,
            },
            "timings": timings(stats),
        }

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's events."""
        yield self._event("created", response=self._response("in_progress", []))
        yield self._event("in_progress", response=self._response("in_progress", []))
        try:
            item = {**self._item("in_progress"), "content": []}
            yield self._event("output_item.added", output_index=0, item=item)
            yield self._part_event("content_part.added", part=self._part(""))
            async for _, event in self._job.events():
                if isinstance(event, Delta):
                    if event.text:
                        yield self._part_event("output_text.delta", delta=event.text, logprobs=[])
                    continue
                text, status = self._job.answers[0].text, _status(event)
                yield self._part_event("output_text.done", text=text, logprobs=[])
                yield self._part_event("content_part.done", part=self._part(text))
                yield self._event("output_item.done", output_index=0, item=self._item(status))
                yield self._event(status, response=self.whole())
        except EdgeLLMError as error:
            told = openai_error(error)["error"]
            failed = self._response("failed", [])
            failed["error"] = {"code": "server_error", "message": told["message"]}
            yield self._event("failed", response=failed)

    def _event(self, name: str, **fields: Any) -> bytes:
        name = f"response.{name}"
        event = {"type": name, "sequence_number": self._n_events, **fields}
        self._n_events += 1
        return data_event(event, name)

    def _part_event(self, name: str, **fields: Any) -> bytes:
        return self._event(name, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, status: str) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._item_id,
            "status": status,
            "role": "assistant",
            "content": [self._part(self._job.answers[0].text)],
        }

    def _response(self, status: str, output: list[Mapping[str, Any]]) -> dict[str, Any]:
        body, options = self._body, self._job.answers[0].request.options
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._job.loaded.name,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": options.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": options.top_p,
            "truncation": "disabled",
            "usage": None,
        }


def _status(finish: Finish) -> str:
    return "completed" if finish.reason == "stop" else "incomplete"
