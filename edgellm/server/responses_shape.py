"""The response of the OpenAI Responses API: whole and as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from edgellm.engine.request import Delta, Finish
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Job
from edgellm.server.blocks import Block, Blocks
from edgellm.server.errors import openai_error
from edgellm.server.responses_bodies import ResponsesBody
from edgellm.server.service import Prompt, Shape, timings
from edgellm.server.sse import data_event


class ResponseShape(Shape[ResponsesBody]):
    """A response; events are numbered as they are made."""

    def __init__(self, job: Job, body: ResponsesBody, prompt: Prompt, load_s: float) -> None:
        super().__init__(job, body, prompt, load_s)
        self._blocks = Blocks(prompt.parser())
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._n_events = 0

    def whole(self) -> dict[str, Any]:
        """The response, complete."""
        answer, finish = self.only
        self._blocks.read(answer.text)
        return self._ended(finish)

    def _ended(self, finish: Finish) -> dict[str, Any]:
        status = _status(finish)
        stats = finish.stats
        n_thought = self._blocks.n_thought(self.job.loaded.model.tokenizer, stats.n_generated)
        return {
            **self._response(status, [self._item(block, status) for block in self._blocks.all]),
            "incomplete_details": None if status == "completed" else {"reason": "max_output_tokens"},
            "usage": {
                "input_tokens": stats.n_prompt,
                "input_tokens_details": {"cached_tokens": stats.n_cached, "cache_write_tokens": 0},
                "output_tokens": stats.n_generated,
                "output_tokens_details": {"reasoning_tokens": n_thought},
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
            async for _, event in self.job.events():
                pushed = self._blocks.push(event) if isinstance(event, Delta) else self._blocks.flush()
                for block, added in pushed:
                    if block is not current:
                        for chunk in self._close(current, "completed"):
                            yield chunk
                        for chunk in self._open(block):
                            yield chunk
                        current = block
                    if added and not self._is_custom(block):
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
        item = {**self._item(begun, "in_progress"), **({} if block.kind == "call" else {"content": []})}
        yield self._event("output_item.added", output_index=block.index, item=item)
        if block.kind != "call":
            yield self._part_event(block, "added", "")

    def _close(self, block: Block | None, status: str) -> Iterator[bytes]:
        if block is None:
            return
        if self._is_custom(block):
            # A text is known only once its JSON is complete.
            place = {"item_id": _key(block), "output_index": block.index}
            yield self._event("custom_tool_call_input.delta", delta=_text_of(block), **place)
            yield self._event("custom_tool_call_input.done", input=_text_of(block), **place)
        elif block.kind == "call":
            yield self._block_event(block, "done", arguments=block.text)
        else:
            logprobs: dict[str, Any] = {"logprobs": []} if block.kind == "words" else {}
            yield self._block_event(block, "done", text=block.text, **logprobs)
            yield self._part_event(block, "done", block.text)
        yield self._event("output_item.done", output_index=block.index, item=self._item(block, status))

    def _is_custom(self, block: Block) -> bool:
        return block.kind == "call" and block.name in self.body.custom

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        """An item of the output."""
        head = {"id": _key(block), "status": status}
        if block.kind == "call":
            call = {"call_id": f"call_{block.key}", "name": block.name}
            if self._is_custom(block):
                return {**head, "type": "custom_tool_call", **call, "input": _text_of(block)}
            return {**head, "type": "function_call", **call, "arguments": block.text}
        content = [_part(block, block.text)]
        if block.kind == "thought":
            return {**head, "type": "reasoning", "summary": [], "content": content}
        return {**head, "type": "message", "role": "assistant", "content": content}

    def _response(self, status: str, output: list[Mapping[str, Any]]) -> dict[str, Any]:
        body, options = self.body, self.job.answers[0].request.options
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
            "model": self.job.loaded.name,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": options.temperature,
            "text": body.text.model_dump(by_alias=True) if body.text else {"format": {"type": "text"}},
            "tool_choice": choice,
            "tools": body.tools,
            "top_p": options.top_p,
            "truncation": body.truncation,
            "usage": None,
        }


_EVENTS = {
    "words": "output_text",
    "thought": "reasoning_text",
    "call": "function_call_arguments",
}


def _key(block: Block) -> str:
    return {"words": "msg_", "thought": "rs_", "call": "fc_"}[block.kind] + block.key


def _text_of(block: Block) -> str:
    """The text that a custom tool is called with; "" as long as it is not complete."""
    return str((block.arguments() or {}).get("input", ""))


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "thought":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(finish: Finish) -> str:
    return "completed" if finish.reason == "stop" else "incomplete"
