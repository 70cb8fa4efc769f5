"""The answers of the Ollama API: whole and as lines."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from edgellm.engine.request import Delta, Finish
from edgellm.engine.sampling import Sampled
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Job
from edgellm.server.blocks import Block, Blocks
from edgellm.server.errors import ollama_error
from edgellm.server.ollama_bodies import ChatBody, GenerateBody, GenerationBody
from edgellm.server.service import Prompt, Shape

B = TypeVar("B", bound=GenerationBody)


class OllamaShape(Shape[B]):
    """One answer in the making: the lines and the end that chat and generate share."""

    media_type = "application/x-ndjson"
    ping = b""  # clients read every line as JSON

    def __init__(self, job: Job, body: B, prompt: Prompt, load_s: float) -> None:
        super().__init__(job, body, prompt, load_s)
        self._blocks = Blocks(prompt.parser())
        self._tokenizer = job.loaded.model.tokenizer

    @abstractmethod
    def text(self, words: str, thoughts: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        """An answer, whole or in part."""

    def whole(self) -> dict[str, Any]:
        """The answer, complete."""
        answer, finish = self.only
        blocks = self._blocks
        blocks.read(answer.text)
        text = self.text(blocks.text("words"), blocks.text("thought"), blocks.calls)
        return self._last(text, answer.tokens, finish)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's lines; a call is sent whole, once another block or the end follows it."""
        n_sent = 0
        try:
            async for _, event in self.job.events():
                ended = isinstance(event, Finish)
                tokens = event.tokens if isinstance(event, Delta) else ()
                pushed = self._blocks.push(event) if isinstance(event, Delta) else self._blocks.flush()
                words, thoughts = "", ""
                for block, added in pushed:
                    words += added if block.kind == "words" else ""
                    thoughts += added if block.kind == "thought" else ""
                known = self._blocks.all if ended else self._blocks.all[:-1]
                calls = [block for block in known[n_sent:] if block.kind == "call"]
                n_sent = max(n_sent, len(known))
                if words or thoughts or calls or (self.body.logprobs and tokens):
                    yield _line(self._piece(self.text(words, thoughts, calls), tokens))
                if isinstance(event, Finish):
                    yield _line(self._last(self.text(""), (), event))
        except EdgeLLMError as error:
            yield _line(ollama_error(error))

    def _piece(self, text: dict[str, Any], tokens: Sequence[Sampled]) -> dict[str, Any]:
        return {**head(self.job.loaded.name), **text, **self._logprobs(tokens), "done": False}

    def _last(self, text: dict[str, Any], tokens: Sequence[Sampled], finish: Finish) -> dict[str, Any]:
        stats = finish.stats
        return {
            **head(self.job.loaded.name),
            **text,
            **self._logprobs(tokens),
            "done": True,
            "done_reason": "stop" if finish.reason == "stop" else "length",
            "total_duration": nanoseconds(self.load_s + stats.queue_s + stats.prompt_s + stats.generate_s),
            "load_duration": nanoseconds(self.load_s),
            "prompt_eval_count": stats.n_prompt,
            "prompt_eval_duration": nanoseconds(stats.prompt_s),
            "eval_count": stats.n_generated,
            "eval_duration": nanoseconds(stats.generate_s),
        }

    def _logprobs(self, tokens: Sequence[Sampled]) -> dict[str, Any]:
        if not self.body.logprobs or not tokens:
            return {}
        n_top = self.body.top_logprobs or 0
        found = [
            {
                **self._token(token.id, token.logprob),
                "top_logprobs": [self._token(*p) for p in token.top[:n_top]],
            }
            for token in tokens
        ]
        return {"logprobs": found}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token)
        finite = -9999.0 if logprob is None or not math.isfinite(logprob) else logprob
        return {"token": raw.decode("utf-8", "replace"), "logprob": finite, "bytes": list(raw)}


class ChatShape(OllamaShape[ChatBody]):
    """An answer of /api/chat."""

    def text(self, words: str, thoughts: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        message = message_of(words)
        if thoughts:
            message["thinking"] = thoughts
        # A call that was cut off is none.
        complete = [(call.name, arguments) for call in calls if (arguments := call.arguments()) is not None]
        if complete:
            message["tool_calls"] = [{"function": {"name": n, "arguments": a}} for n, a in complete]
        return {"message": message}


class GenerateShape(OllamaShape[GenerateBody]):
    """An answer of /api/generate."""

    def text(self, words: str, thoughts: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        return {"response": words, **({"thinking": thoughts} if thoughts else {})}


def head(name: str) -> dict[str, Any]:
    """The members that all answers begin with."""
    return {"model": name, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def message_of(text: str) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def nanoseconds(seconds: float) -> int:
    """Seconds in the unit that Ollama uses."""
    return round(seconds * 1e9)
