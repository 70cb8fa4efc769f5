"""The response of the Anthropic Messages API: whole and as events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from edgellm.engine.request import Delta, Finish, Stats
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Job
from edgellm.server.anthropic_bodies import MessagesBody
from edgellm.server.blocks import Block, Blocks
from edgellm.server.errors import anthropic_error
from edgellm.server.service import Prompt, Shape
from edgellm.server.sse import data_event


class MessageShape(Shape[MessagesBody]):
    """A message."""

    ping = data_event({"type": "ping"}, "ping")

    def __init__(self, job: Job, body: MessagesBody, prompt: Prompt, load_s: float) -> None:
        super().__init__(job, body, prompt, load_s)
        self._n_prompt = len(prompt.ids[0])
        self._blocks = Blocks(prompt.parser())
        self._id = f"msg_{uuid.uuid4().hex}"

    def whole(self) -> dict[str, Any]:
        """The message, complete."""
        answer, finish = self.only
        blocks = [found for block in self._blocks.read(answer.text) if (found := _content(block)) is not None]
        reason = self._reason(finish)
        return {**self._message(blocks or [_text_block("")]), **reason, "usage": _usage(finish.stats)}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's events."""
        usage = {"input_tokens": self._n_prompt, "output_tokens": 0}
        unknown = {"stop_reason": None, "stop_sequence": None, "usage": usage}
        yield _event("message_start", message={**self._message([]), **unknown})
        current: Block | None = None
        try:
            async for _, event in self.job.events():
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
            "model": self.job.loaded.name,
            "content": blocks,
        }

    def _reason(self, finish: Finish) -> dict[str, Any]:
        """Why the answer ended; a stop text of the template's own is a natural end."""
        if finish.stop in self.body.stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
        ended = "tool_use" if self._blocks.calls else "end_turn"
        reasons = {"stop": ended, "context": "model_context_window_exceeded"}
        return {"stop_reason": reasons.get(finish.reason, "max_tokens"), "stop_sequence": None}


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _begun(block: Block) -> dict[str, Any]:
    """A block without its text."""
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
