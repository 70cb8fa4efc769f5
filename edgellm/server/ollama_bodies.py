"""The requests of the Ollama API."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from edgellm.engine.options import GenerateOptions
from edgellm.server.bodies import Body, ModelBody, SamplingFields
from edgellm.server.durations import duration
from edgellm.server.errors import RequestError
from edgellm.server.thoughts import Thinking, read_level

MAX_TOP_LOGPROBS = 20


def _keep_alive(value: object) -> float | None:
    """Seconds that a model stays loaded without requests; None: as before."""
    return None if value is None else duration(value)


class Options(SamplingFields):
    """The `options` of a request."""

    num_predict: int | None = None
    num_ctx: int | None = None
    repeat_last_n: int | None = None


KeepAlive = Annotated[float | None, BeforeValidator(_keep_alive)]


class GenerationBody(ModelBody):
    """The fields that chat and generate share."""

    model: str
    keep_alive: KeepAlive = None
    stream: bool | None = None
    options: Options | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    thinking_budget_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    def unread(self) -> list[str]:
        return [*super().unread(), *(f"options.{name}" for name in (self.options or Options()).unread())]

    def generate_options(self) -> GenerateOptions:
        """Generation options; RequestError or UsageError for what cannot be done."""
        if isinstance(self.format, str) and self.format not in ("", "json"):
            raise RequestError(400, "format must be json or a JSON schema.", param="format")
        fields = self.options or Options()
        n_predict = fields.num_predict
        options = fields.options(
            max_tokens=None if n_predict is None or n_predict < 0 else n_predict,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
        if fields.repeat_last_n is not None:
            options = replace(options, penalty_last_n=fields.repeat_last_n)
        if isinstance(self.format, dict):
            return replace(options, schema=self.format)
        return replace(options, json=self.format == "json")

    @property
    def num_ctx(self) -> int | None:
        """The context that the request asks for."""
        return None if self.options is None else self.options.num_ctx

    def thoughts(self) -> Thinking:
        """Level and budget of thinking; RequestError for a level that there is not."""
        level = None if self.think is None else read_level(self.think, "think")
        return Thinking(level, "think", self.thinking_budget_tokens, "thinking_budget_tokens")


class ChatBody(GenerationBody):
    """POST /api/chat."""

    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class GenerateBody(GenerationBody):
    """POST /api/generate."""

    prompt: str = ""
    system: str = ""
    raw: bool = False
    suffix: str = ""
    template: str = ""
    images: list[Any] | None = None


class EmbedBody(ModelBody):
    """POST /api/embed."""

    model: str
    keep_alive: KeepAlive = None
    input: str | list[str]
    truncate: bool = True
    dimensions: int | None = None


class OldEmbedBody(ModelBody):
    """POST /api/embeddings, which newer clients no longer use."""

    model: str
    keep_alive: KeepAlive = None
    prompt: str


class ShowBody(Body):
    """POST /api/show; older clients say name for model."""

    model: str | None = None
    name: str | None = None
