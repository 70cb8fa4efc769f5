"""The requests of the OpenAI API."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from edgellm.server.bodies import Body, ModelBody
from edgellm.server.choices import Chosen, Given, choose
from edgellm.server.errors import RequestError
from edgellm.server.formats import FormatFields
from edgellm.server.thoughts import Thinking, read_level

MAX_TOP_LOGPROBS = 20

TextOrTokens: TypeAlias = str | list[str] | list[int] | list[list[int]]

# Fields of other servers that change what an answer must be, and that this one does not have.
_REFUSED = frozenset(
    {"audio", "min_tokens", "stop_token_ids", "bad_words", "allowed_token_ids", "use_beam_search"}
    | {"prompt_logprobs", "truncate_prompt_tokens", "structural_tag", "logits_processors"}
)


class StreamOptions(Body):
    """include_usage: one more chunk at the end with the token counts."""

    include_usage: bool = False


class OpenAIBody(ModelBody, FormatFields):
    """The fields that chats and completions share."""

    max_tokens: int | None = None
    n_predict: int | None = None
    n: int = 1
    best_of: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_progress: bool = False

    def check(self) -> None:
        """RequestError for a field that would change the answer and that this server does not have."""
        refused = [name for name in sorted(_REFUSED & set(self.model_extra or {})) if self._asks(name)]
        if self.best_of is not None and self.best_of > self.n:
            refused.append("best_of")
        if refused:
            name = refused[0]
            raise RequestError(400, f"{name} is not supported; leave it out.", param=name)

    def _asks(self, name: str) -> bool:
        return bool((self.model_extra or {})[name])

    def wants_usage(self) -> bool:
        """True if a stream has to end with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(OpenAIBody):
    """POST /v1/chat/completions.

    return_progress: a stream says how much of the prompt has been read, as in llama.cpp's server.
    continue_final_message: the last message is the beginning of the answer, as in vLLM. answer_id: the stream
    goes on without its reader, under this name.
    """

    messages: list[dict[str, Any]] = Field(min_length=1)
    truncation: Literal["auto", "disabled"] = "disabled"
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    modalities: list[str] | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: int | None = Field(None, ge=0)
    thinking_token_budget: int | None = Field(None, ge=0)
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Given = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool = False
    answer_id: str | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise RequestError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
        if self.modalities is not None and set(self.modalities) != {"text"}:
            raise RequestError(400, "modalities must be text alone.", param="modalities")
        if self.continue_final_message and self.messages[-1].get("role") != "assistant":
            raise RequestError(
                400, "continue_final_message needs a last message of the assistant.", param="messages"
            )
        if self.functions and self.tools:
            raise RequestError(400, "functions and tools are given together; use tools.", param="functions")

    @property
    def legacy(self) -> bool:
        """True if tools are given as functions, the older form, in which calls are answered then."""
        return bool(self.functions) and not self.tools

    def limit(self) -> int | None:
        """The most tokens of an answer."""
        given = (self.max_completion_tokens, self.max_tokens, self.n_predict)
        return next((number for number in given if number is not None), None)

    def thoughts(self) -> Thinking:
        """Level and budget of thinking; the fields of the budget are llama.cpp's and vLLM's."""
        effort, field = self.reasoning_effort, "thinking_budget_tokens"
        if self.thinking_budget_tokens is None:
            field = "thinking_token_budget"
        level = None if effort is None else read_level(effort, "reasoning_effort")
        return Thinking(level, "reasoning_effort", getattr(self, field), field)

    def chosen(self) -> Chosen:
        """The tools, and which of them may be called."""
        if self.legacy:
            return choose(self.functions, self.function_call, parallel=False)
        return choose(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)


class CompletionBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: TextOrTokens = ""
    suffix: str | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool = False

    def limit(self) -> int | None:
        """The most tokens of an answer: 16 if nothing is said, as OpenAI has it."""
        given = (self.max_tokens, self.n_predict)
        return next((number for number in given if number is not None), 16)


class EmbeddingBody(ModelBody):
    """POST /v1/embeddings.

    prompt_name: the prompt of the model's file to put before texts, by the name that TEI uses, too.
    """

    input: TextOrTokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    prompt_name: str | None = None
