"""The responses of the OpenAI API: whole and as streams."""

from __future__ import annotations

import math
import time
import uuid
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from edgellm.chat.parts import Part, Thought, Words
from edgellm.engine.request import Delta, Finish, Stats
from edgellm.engine.sampling import Sampled
from edgellm.errors import EdgeLLMError
from edgellm.server.answers import Answer, Job, Reading
from edgellm.server.blocks import Blocks
from edgellm.server.errors import openai_error
from edgellm.server.openai_bodies import ChatBody, CompletionBody, OpenAIBody
from edgellm.server.service import Prompt, Shape, timings
from edgellm.server.sse import data_event

# Time between two chunks of a prompt's progress.
PROGRESS_S = 0.3
DONE = b"data: [DONE]\n\n"

B = TypeVar("B", bound=OpenAIBody)


class OpenAIShape(Shape[B]):
    """One response in the making: the envelope that chats and completions share."""

    whole_name: str
    chunk_name: str
    id_prefix: str

    def __init__(self, job: Job, body: B, prompt: Prompt, load_s: float) -> None:
        super().__init__(job, body, prompt, load_s)
        self.tokenizer = job.loaded.model.tokenizer
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    @abstractmethod
    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A choice, complete."""

    @abstractmethod
    def first(self, index: int) -> dict[str, Any] | None:
        """The first piece of a choice's stream, if there is one before its answer."""

    @abstractmethod
    def pieces(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Parts of a choice."""

    @abstractmethod
    def last(self, index: int, finish: Finish) -> list[dict[str, Any]]:
        """The last pieces of a choice's stream."""

    @property
    @abstractmethod
    def wants_tokens(self) -> bool:
        """True if pieces without text count, because of their log-probabilities."""

    def whole(self) -> dict[str, Any]:
        """All choices, complete."""
        choices = [self.choice(index, answer) for index, answer in enumerate(self.job.answers)]
        content = self._envelope(self.whole_name, choices)
        return {**content, "usage": self._usage(), "timings": timings(_stats(self.job.answers[0]))}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's events."""
        try:
            for index in range(len(self.job.answers)):
                if (choice := self.first(index)) is not None:
                    yield self._chunk(choice)
            if self.body.return_progress:
                async for reading in self.job.reading(PROGRESS_S):
                    yield data_event(self._progress(reading))
            async for index, event in self.job.events():
                if isinstance(event, Delta):
                    if event.text or self.wants_tokens:
                        for choice in self.pieces(index, event):
                            yield self._chunk(choice)
                else:
                    *rest, last = self.last(index, event)
                    for choice in rest:
                        yield self._chunk(choice)
                    yield self._chunk(last, timings=timings(event.stats))
        except EdgeLLMError as error:
            yield data_event(openai_error(error))
        else:
            if self.body.wants_usage():
                yield data_event({**self._envelope(self.chunk_name, []), "usage": self._usage()})
        yield DONE

    def _chunk(self, choice: dict[str, Any], **more: Any) -> bytes:
        usage = {"usage": None} if self.body.wants_usage() else {}
        return data_event({**self._envelope(self.chunk_name, [choice]), **usage, **more})

    def _envelope(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": name,
            "created": self._created,
            "model": self.job.loaded.name,
            "choices": choices,
        }

    def _progress(self, reading: Reading) -> dict[str, Any]:
        """A chunk without choices that says how much of the prompt is done, as llama.cpp's server has it."""
        progress = {
            "total": reading.n_prompt,
            "cache": reading.n_cached,
            "processed": reading.n_done,
            "time_ms": reading.ms,
        }
        return {**self._envelope(self.chunk_name, []), "prompt_progress": progress}

    def _usage(self) -> dict[str, Any]:
        """Token counts; a prompt counts once however many answers it got."""
        stats = [_stats(answer) for answer in self.job.answers]
        n_prompt = sum(s.n_prompt for s in stats[:: self.body.n])
        n_generated = sum(s.n_generated for s in stats)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_generated,
            "total_tokens": n_prompt + n_generated,
            "prompt_tokens_details": {"cached_tokens": sum(s.n_cached for s in stats[:: self.body.n])},
        }


class ChatShape(OpenAIShape[ChatBody]):
    """A chat completion."""

    whole_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, job: Job, body: ChatBody, prompt: Prompt, load_s: float) -> None:
        super().__init__(job, body, prompt, load_s)
        self._parsers = [prompt.parser() for _ in job.answers]

    def _usage(self) -> dict[str, Any]:
        read = [(self._read(answer), _stats(answer).n_generated) for answer in self.job.answers]
        n_thought = sum(blocks.n_thought(self.tokenizer, n) for blocks, n in read)
        details = {"completion_tokens_details": {"reasoning_tokens": n_thought}}
        return {**super()._usage(), **(details if n_thought else {})}

    def _read(self, answer: Answer) -> Blocks:
        """An answer so far, taken apart."""
        blocks = Blocks(self.prompt.parser())
        blocks.read(answer.text)
        return blocks

    @property
    def wants_tokens(self) -> bool:
        return self.body.logprobs

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        blocks = self._read(answer)
        words, thoughts, calls = blocks.text("words"), blocks.text("thought"), blocks.calls
        message: dict[str, Any] = {"role": "assistant", "content": words, "refusal": None}
        if thoughts.strip("\n"):
            message["reasoning_content"] = thoughts.strip("\n")
        if calls:
            message["content"] = words.rstrip("\n") or None
            message |= self._calls([(call.name, call.text) for call in calls])
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.tokens),
            "finish_reason": self._reason(answer.finish, len(calls)),
        }

    def first(self, index: int) -> dict[str, Any]:
        return self._choice(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        deltas = [self._delta(part) for part in self._parsers[index].push(delta.text)]
        if not deltas and self.wants_tokens:
            deltas = [{"content": ""}]
        choices = [self._choice(index, part) for part in deltas]
        if choices:
            choices[0]["logprobs"] = self._logprobs(delta.tokens)
        return choices

    def last(self, index: int, finish: Finish) -> list[dict[str, Any]]:
        parser = self._parsers[index]
        rest = [self._choice(index, self._delta(part)) for part in parser.flush()]
        return [*rest, self._choice(index, {}, self._reason(finish, parser.n_calls))]

    def _calls(self, calls: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The member of a message that holds calls."""
        if self.body.legacy:
            return {"function_call": {"name": calls[0][0], "arguments": calls[0][1]}}
        return {"tool_calls": [_tool_call(name, arguments) for name, arguments in calls]}

    def _delta(self, part: Part) -> dict[str, Any]:
        """A part of an answer as a stream carries it."""
        if isinstance(part, Words):
            return {"content": part.text}
        if isinstance(part, Thought):
            return {"reasoning_content": part.text}
        name = {} if part.name is None else {"name": part.name}
        if self.body.legacy:
            return {"function_call": {**name, "arguments": part.arguments}}
        if part.name is None:
            return {"tool_calls": [{"index": part.index, "function": {"arguments": part.arguments}}]}
        return {"tool_calls": [{"index": part.index, **_tool_call(part.name, part.arguments)}]}

    def _reason(self, finish: Finish | None, n_calls: int) -> str:
        if n_calls and finish is not None and finish.reason == "stop":
            return "function_call" if self.body.legacy else "tool_calls"
        return _finish_reason(finish)

    def _choice(self, index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Sampled]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        n_top = self.body.top_logprobs or 0
        content = [
            {
                **self._token(token.id, token.logprob),
                "top_logprobs": [self._token(*pair) for pair in token.top[:n_top]],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        raw = self.tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(raw)}


class CompletionShape(OpenAIShape[CompletionBody]):
    """A completion."""

    whole_name = chunk_name = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, job: Job, body: CompletionBody, prompt: Prompt, load_s: float) -> None:
        super().__init__(job, body, prompt, load_s)
        # The place of the next token of each choice in its text.
        self._offsets = [0] * len(job.answers)

    @property
    def wants_tokens(self) -> bool:
        return self.body.logprobs is not None

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        tokens = [*self._echoed(index), *answer.tokens]
        return self._choice(index, self._echo(index) + answer.text, tokens, _finish_reason(answer.finish))

    def first(self, index: int) -> dict[str, Any] | None:
        echo = self._echo(index)
        return self._choice(index, echo, self._echoed(index)) if echo else None

    def pieces(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        return [self._choice(index, delta.text, delta.tokens)]

    def last(self, index: int, finish: Finish) -> list[dict[str, Any]]:
        return [self._choice(index, "", (), _finish_reason(finish))]

    def _echo(self, index: int) -> str:
        if not self.body.echo:
            return ""
        ids = self.job.answers[index].request.prompt
        return self.tokenizer.decode(ids[self._n_begin(ids) :], skip_special=False)

    def _n_begin(self, ids: Sequence[int]) -> int:
        """1 if a prompt begins with the token that the tokenizer itself puts before texts, or else 0."""
        return int(self.tokenizer.adds_bos and list(ids[:1]) == [self.tokenizer.bos_id])

    def _echoed(self, index: int) -> Sequence[Sampled]:
        """The prompt's tokens; the first has no log-probability."""
        return self.prompt.echoed[index // self.body.n] if self.prompt.echoed else ()

    def _choice(
        self, index: int, text: str, tokens: Sequence[Sampled], reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._logprobs(index, tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, index: int, tokens: Sequence[Sampled]) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        texts = [self._text(token.id) for token in tokens]
        n_top = self.body.logprobs
        lengths = [0 if token.id == self.tokenizer.bos_id else len(self._text(token.id)) for token in tokens]
        *offsets, self._offsets[index] = accumulate(lengths, initial=self._offsets[index])
        return {
            "tokens": texts,
            "token_logprobs": [
                None if math.isnan(token.logprob) else _finite(token.logprob) for token in tokens
            ],
            "top_logprobs": [
                None if math.isnan(token.logprob) else self._by_text(token.top[:n_top]) for token in tokens
            ],
            "text_offset": offsets,
        }

    def _by_text(self, likeliest: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Log-probabilities by the texts of tokens; of those with the same text the likeliest counts."""
        found: dict[str, float] = {}
        for token, logprob in likeliest:
            found.setdefault(self._text(token), _finite(logprob))
        return found

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def _stats(answer: Answer) -> Stats:
    assert answer.finish is not None
    return answer.finish.stats


def _tool_call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _finish_reason(finish: Finish | None) -> str:
    """OpenAI knows one word for every answer that was cut off."""
    return "stop" if finish is not None and finish.reason == "stop" else "length"


def _finite(logprob: float | None) -> float:
    """JSON has no infinity; OpenAI writes -9999 for a token that cannot be."""
    return -9999.0 if logprob is None or not math.isfinite(logprob) else logprob
