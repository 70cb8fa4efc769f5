"""The requests of the Anthropic Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from edgellm.engine.options import GenerateOptions
from edgellm.server.bodies import Body, ModelBody
from edgellm.server.choices import Chosen, choose
from edgellm.server.errors import RequestError
from edgellm.server.thoughts import Thinking

TextOrBlocks = str | list[dict[str, Any]]


class Turn(Body):
    """One message of a conversation."""

    role: str
    content: TextOrBlocks


class Choice(Body):
    """The tools that may be called."""

    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingConfig(Body):
    """Choice of thinking before the answer, and of the most tokens of thought."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=0)


class PromptBody(ModelBody):
    """POST /v1/messages/count_tokens: a conversation."""

    messages: list[Turn] = Field(min_length=1)
    system: TextOrBlocks | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Choice = Field(default_factory=lambda: Choice())
    thinking: ThinkingConfig | None = None

    def unread(self) -> list[str]:
        left_out = [f"tools.{n}.{tool['type']}" for n, tool in enumerate(self.tools) if not _usable(tool)]
        return [*super().unread(), *left_out]

    def chosen(self) -> Chosen:
        """The tools that the client describes, and which of them may be called; others are left out."""
        tools = [
            {
                "type": "function",
                "name": tool.get("name"),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema"),
            }
            for tool in self.tools
            if _usable(tool)
        ]
        wanted = self.tool_choice
        if wanted.type == "tool" and not wanted.name:
            raise RequestError(400, "tool_choice of type tool needs a name.", param="tool_choice.name")
        given: str | dict[str, Any] = (
            {"type": "tool", "name": wanted.name} if wanted.type == "tool" else wanted.type
        )
        return choose(tools, given, parallel=not wanted.disable_parallel_tool_use)

    def thoughts(self) -> Thinking:
        """Level and budget of thinking."""
        if self.thinking is None:
            return Thinking()
        level = "off" if self.thinking.type == "disabled" else "on"
        budget = None if level == "off" else self.thinking.budget_tokens
        return Thinking(level, "thinking", budget, "thinking.budget_tokens")


class OutputConfig(Body):
    """format: the form of the answer."""

    format: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None

    def generate_options(self) -> GenerateOptions:
        """Generation options; RequestError or UsageError for those out of range."""
        options = GenerateOptions(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=1e-9 if self.top_p == 0 else self.top_p,
            top_k=0 if self.top_k == -1 else self.top_k,
            stop=tuple(text for text in self.stop_sequences if text),
        )
        given = self.output_format or (self.output_config.format if self.output_config else None)
        if given is None:
            return options
        schema = given.get("schema")
        if given.get("type") != "json_schema" or schema is None:
            raise RequestError(
                400,
                f"output_config.format is of type {str(given.get('type'))[:40]!r}; json_schema with a schema "
                "is supported.",
                param="output_config.format",
            )
        return replace(options, schema=schema)


def _usable(tool: Mapping[str, Any]) -> bool:
    """True for tools that the client describes and runs itself."""
    return (tool.get("type") or "custom") in ("custom", "function")
