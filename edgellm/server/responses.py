"""The OpenAI Responses API, stateless: a conversation is sent whole each time.

Source: OpenAI's API reference (Responses, Streaming events).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from edgellm.chat.parts import PartParser
from edgellm.chat.tools import ToolChoice, read_tools
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Finish
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Job
from edgellm.server.blocks import Block, Blocks
from edgellm.server.errors import RequestError, openai_error
from edgellm.server.service import Body, SamplingFields, ServiceOf, timings, tool_choice
from edgellm.server.sse import data_event

router = APIRouter(tags=["OpenAI"])


class TextFormat(Body):
    """What the text has to be; a schema holds whether or not it is asked to be strict."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    strict: bool | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class TextConfig(Body):
    """The `text` of a request."""

    format: TextFormat | None = None


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    name: str


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
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool | None = None

    def generate_options(self) -> GenerateOptions:
        """Generation options; RequestError or UsageError for what cannot be done."""
        options = self.options(max_tokens=self.max_output_tokens)
        wanted = self.text.format if self.text is not None else None
        if wanted is None or wanted.type == "text":
            return options
        if wanted.type == "json_object":
            return replace(options, json=True)
        if wanted.json_schema is None:
            raise RequestError(400, "text.format has no schema.", param="text.format.schema")
        return replace(options, schema=wanted.json_schema)

    def choice(self) -> ToolChoice | None:
        """Which tools may be called, or None if none may."""
        wanted = self.tool_choice
        if isinstance(wanted, NamedTool):
            return tool_choice(self.tools, "required", wanted.name)
        return tool_choice(self.tools, wanted, parallel=self.parallel_tool_calls)


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
    async with service.models.use(body.model) as loaded:
        prepared = await service.conversation(
            loaded.model,
            conversation(body),
            body.generate_options(),
            tools=read_tools(body.tools),
            choice=body.choice(),
        )
        job = service.start(loaded, [prepared.ids], prepared.options, shown=prepared.shown)
    shape = _Shape(job, body, prepared.parser())
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

    def __init__(self, job: Job, body: ResponsesBody, parser: PartParser) -> None:
        self._job = job
        self._body = body
        self._blocks = Blocks(parser)
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._n_events = 0

    def whole(self) -> dict[str, Any]:
        """The response, complete."""
        answer = self._job.answers[0]
        self._blocks.read(answer.text)
        assert answer.finish is not None
        return self._ended(answer.finish)

    def _ended(self, finish: Finish) -> dict[str, Any]:
        status = _status(finish)
        stats = finish.stats
        return {
            **self._response(status, [_item(block, status) for block in self._blocks.all]),
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
        current: Block | None = None
        try:
            async for _, event in self._job.events():
                pushed = self._blocks.push(event) if isinstance(event, Delta) else self._blocks.flush()
                for block, added in pushed:
                    if block is not current:
                        for chunk in self._close(current, "completed"):
                            yield chunk
                        for chunk in self._open(block):
                            yield chunk
                        current = block
                    if added:
                        logprobs: dict[str, Any] = {"logprobs": []} if block.kind == "words" else {}
                        yield self._block_event(block, "delta", delta=added, **logprobs)
                if isinstance(event, Finish):
                    status = _status(event)
                    for chunk in self._close(current, status):
                        yield chunk
                    yield self._event(status, response=self._ended(event))
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

    def _block_event(self, block: Block, step: str, **fields: Any) -> bytes:
        """An event of what a block holds: its text has a place in the item, a call's arguments have none."""
        place = {} if block.kind == "call" else {"content_index": 0}
        name = f"{_EVENTS[block.kind]}.{step}"
        return self._event(name, item_id=_key(block), output_index=block.index, **place, **fields)

    def _part_event(self, block: Block, name: str, text: str) -> bytes:
        return self._event(
            f"content_part.{name}",
            item_id=_key(block),
            output_index=block.index,
            content_index=0,
            part=_part(block, text),
        )

    def _open(self, block: Block) -> Iterator[bytes]:
        begun = replace(block, text="")
        item = {**_item(begun, "in_progress"), **({} if block.kind == "call" else {"content": []})}
        yield self._event("output_item.added", output_index=block.index, item=item)
        if block.kind != "call":
            yield self._part_event(block, "added", "")

    def _close(self, block: Block | None, status: str) -> Iterator[bytes]:
        if block is None:
            return
        if block.kind == "call":
            yield self._block_event(block, "done", arguments=block.text)
        else:
            logprobs: dict[str, Any] = {"logprobs": []} if block.kind == "words" else {}
            yield self._block_event(block, "done", text=block.text, **logprobs)
            yield self._part_event(block, "done", block.text)
        yield self._event("output_item.done", output_index=block.index, item=_item(block, status))

    def _response(self, status: str, output: list[Mapping[str, Any]]) -> dict[str, Any]:
        body, options = self._body, self._job.answers[0].request.options
        choice = body.tool_choice
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
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": options.temperature,
            "text": body.text.model_dump(by_alias=True) if body.text else {"format": {"type": "text"}},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": body.tools,
            "top_p": options.top_p,
            "truncation": "disabled",
            "usage": None,
        }


_EVENTS = {
    "words": "output_text",
    "thought": "reasoning_text",
    "call": "function_call_arguments",
}


def _key(block: Block) -> str:
    return {"words": "msg_", "thought": "rs_", "call": "fc_"}[block.kind] + block.key


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "thought":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(block: Block, status: str) -> dict[str, Any]:
    """An item of the output."""
    head = {"id": _key(block), "status": status}
    if block.kind == "call":
        call = {"call_id": f"call_{block.key}", "name": block.name, "arguments": block.text}
        return {**head, "type": "function_call", **call}
    content = [_part(block, block.text)]
    if block.kind == "thought":
        return {**head, "type": "reasoning", "summary": [], "content": content}
    return {**head, "type": "message", "role": "assistant", "content": content}


def _status(finish: Finish) -> str:
    return "completed" if finish.reason == "stop" else "incomplete"
