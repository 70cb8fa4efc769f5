"""The Anthropic Messages API.

Source: Anthropic's API reference (Messages, Streaming messages, Count tokens). Tokens found in the prefix
cache are counted as read from the cache, and not again as input.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from edgellm.chat.tools import Tool, ToolChoice, read_tools
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Delta, Finish, Stats
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Job
from edgellm.server.blocks import Block, Blocks
from edgellm.server.conversation import Conversation
from edgellm.server.errors import RequestError, anthropic_error
from edgellm.server.models import Served
from edgellm.server.service import Body, Service, ServiceOf, tool_choice
from edgellm.server.sse import data_event

router = APIRouter(tags=["Anthropic"])

TextOrBlocks = str | list[dict[str, Any]]
PING = data_event({"type": "ping"}, "ping")
_MODES: dict[str, Literal["none", "auto", "required"]] = {
    "none": "none",
    "auto": "auto",
    "any": "required",
    "tool": "required",
}


class Turn(Body):
    """One message of a conversation."""

    role: str
    content: TextOrBlocks


class Choice(Body):
    """Which tools may be called."""

    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Body):
    """Whether the model is to think before it answers."""

    type: str


class PromptBody(Body):
    """POST /v1/messages/count_tokens: what a conversation is."""

    model: str | None = None
    messages: list[Turn] = Field(min_length=1)
    system: TextOrBlocks | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Choice = Field(default_factory=lambda: Choice())
    thinking: Thinking | None = None

    def known_tools(self) -> list[Tool]:
        """The tools; RequestError for one that the client does not run itself."""
        for number, tool in enumerate(self.tools):
            if tool.get("type", "custom") != "custom":
                raise RequestError(
                    400,
                    f"tools.{number} is of type {str(tool['type'])[:40]!r}; only custom ones are supported.",
                )
        return read_tools(
            [{**tool, "type": "function", "parameters": tool.get("input_schema")} for tool in self.tools]
        )

    def choice(self) -> ToolChoice | None:
        """Which tools may be called, or None if none may."""
        wanted = self.tool_choice
        if wanted.type == "tool" and not wanted.name:
            raise RequestError(400, "tool_choice of type tool needs a name.")
        name = wanted.name if wanted.type == "tool" else None
        return tool_choice(
            self.tools, _MODES[wanted.type], name, parallel=not wanted.disable_parallel_tool_use
        )

    def variables(self) -> dict[str, Any]:
        """What the template is told besides the messages."""
        return {} if self.thinking is None else {"enable_thinking": self.thinking.type != "disabled"}


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


@router.post("/messages")
async def messages(body: MessagesBody, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation; a last message of the assistant is the beginning of the answer."""
    options = GenerateOptions(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences),
    )
    async with service.models.use(body.model) as loaded:
        prepared = await _prepare(service, loaded, body, options)
        job = service.start(loaded, [prepared.ids], prepared.options, shown=prepared.shown)
    shape = _Shape(job, body, prepared)
    return await service.respond(
        request,
        job,
        body,
        whole=shape.whole,
        chunks=shape.chunks() if body.stream else None,
        ping=PING,
    )


@router.post("/messages/count_tokens")
async def count_tokens(body: PromptBody, service: ServiceOf) -> Response:
    """How many tokens a conversation is."""
    async with service.models.use(body.model) as loaded:
        prepared = await _prepare(service, loaded, body, GenerateOptions())
    return JSONResponse({"input_tokens": len(prepared.ids)}, headers=body.ignored())


async def _prepare(
    service: Service, loaded: Served, body: PromptBody, options: GenerateOptions
) -> Conversation:
    return await service.conversation(
        loaded.model,
        conversation(body),
        options,
        tools=body.known_tools(),
        choice=body.choice(),
        variables=body.variables(),
        prefill=True,
    )


def conversation(body: PromptBody) -> list[dict[str, Any]]:
    """The messages as chat templates know them; RequestError names content that is not supported."""
    found: list[dict[str, Any]] = []
    if body.system:
        found.append({"role": "system", "content": _text(body.system, "system")})
    for number, turn in enumerate(body.messages):
        place = f"messages.{number}.content"
        if turn.role not in ("user", "assistant", "system"):
            raise RequestError(
                400, f"messages.{number}.role is {turn.role[:40]!r}; it must be user or assistant."
            )
        if isinstance(turn.content, str):
            found.append({"role": turn.role, "content": turn.content})
        else:
            found.extend(_turn(turn.role, turn.content, place))
    return found


def _turn(role: str, blocks: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, Any]]:
    """The messages that a list of blocks becomes: results of tools are messages of their own."""
    results = [block for block in blocks if block.get("type") == "tool_result"]
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    # What the assistant thought in earlier turns is not given to it again.
    ours = ("tool_result", "tool_use", "thinking", "redacted_thinking")
    texts = [block for block in blocks if block.get("type") not in ours]
    found: list[dict[str, Any]] = [
        {
            "role": "tool",
            "tool_call_id": str(block.get("tool_use_id", "")),
            "content": _text(block.get("content") or "", place),
        }
        for block in results
    ]
    if texts or calls or not results:
        message: dict[str, Any] = {"role": role, "content": _text(texts, place)}
        if calls:
            message["tool_calls"] = [_call(block, place) for block in calls]
        found.append(message)
    return found


def _call(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    name, arguments = block.get("name"), block.get("input")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RequestError(400, f"{place}: a tool_use block needs a name and an input that is an object.")
    return {
        "id": str(block.get("id", "")),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _text(given: str | Sequence[Mapping[str, Any]], place: str) -> str:
    """The text of blocks, which must all be text."""
    if isinstance(given, str):
        return given
    texts = []
    for block in given:
        kind, text = block.get("type"), block.get("text")
        if kind != "text" or not isinstance(text, str):
            raise RequestError(
                400, f"{place}: a block of type {str(kind)[:40]!r} is not text; only text is supported."
            )
        texts.append(text)
    return "\n".join(texts)


class _Shape:
    """One answer in the making."""

    def __init__(self, job: Job, body: MessagesBody, prepared: Conversation) -> None:
        self._job = job
        self._body = body
        self._n_prompt = len(prepared.ids)
        self._blocks = Blocks(prepared.parser())
        self._id = f"msg_{uuid.uuid4().hex}"

    def whole(self) -> dict[str, Any]:
        """The message, complete."""
        answer = self._job.answers[0]
        assert answer.finish is not None
        blocks = [found for block in self._blocks.read(answer.text) if (found := _content(block)) is not None]
        reason = self._reason(answer.finish)
        return {**self._message(blocks or [_text_block("")]), **reason, "usage": _usage(answer.finish.stats)}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's events."""
        usage = {"input_tokens": self._n_prompt, "output_tokens": 0}
        unknown = {"stop_reason": None, "stop_sequence": None, "usage": usage}
        yield _event("message_start", message={**self._message([]), **unknown})
        current: Block | None = None
        try:
            async for _, event in self._job.events():
                pushed = self._blocks.push(event) if isinstance(event, Delta) else self._blocks.flush()
                for block, added in pushed:
                    if block is not current:
                        if current is not None:
                            yield _event("content_block_stop", index=current.index)
                        yield _event("content_block_start", index=block.index, content_block=_begun(block))
                        current = block
                    if added:
                        yield _event("content_block_delta", index=block.index, delta=_delta(block, added))
                if isinstance(event, Finish):
                    if current is None:
                        yield _event("content_block_start", index=0, content_block=_text_block(""))
                    yield _event("content_block_stop", index=0 if current is None else current.index)
                    yield _event("message_delta", delta=self._reason(event), usage=_usage(event.stats))
                    yield _event("message_stop")
        except EdgeLLMError as error:
            yield data_event(anthropic_error(error), "error")

    def _message(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._job.loaded.name,
            "content": blocks,
        }

    def _reason(self, finish: Finish) -> dict[str, Any]:
        """Why the answer ended; a stop text of the template's own is a natural end."""
        if finish.stop in self._body.stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
        ended = "tool_use" if self._blocks.calls else "end_turn"
        reasons = {"stop": ended, "context": "model_context_window_exceeded"}
        return {"stop_reason": reasons.get(finish.reason, "max_tokens"), "stop_sequence": None}


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _begun(block: Block) -> dict[str, Any]:
    """A block of which nothing has come yet."""
    if block.kind == "words":
        return _text_block("")
    if block.kind == "thought":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": f"toolu_{block.key}", "name": block.name, "input": {}}


def _delta(block: Block, added: str) -> dict[str, Any]:
    if block.kind == "words":
        return {"type": "text_delta", "text": added}
    if block.kind == "thought":
        return {"type": "thinking_delta", "thinking": added}
    return {"type": "input_json_delta", "partial_json": added}


def _content(block: Block) -> dict[str, Any] | None:
    """A block, complete; None for a call that was cut off."""
    begun = _begun(block)
    if block.kind != "call":
        return {**begun, "text" if block.kind == "words" else "thinking": block.text}
    arguments = block.arguments()
    return None if arguments is None else {**begun, "input": arguments}


def _usage(stats: Stats) -> dict[str, int]:
    return {
        "input_tokens": stats.n_prompt - stats.n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": stats.n_cached,
        "output_tokens": stats.n_generated,
    }


def _event(name: str, **fields: Any) -> bytes:
    return data_event({"type": name, **fields}, name)
