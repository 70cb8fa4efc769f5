"""The requests of the OpenAI Responses API, and the conversation that one holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from edgellm.engine.options import GenerateOptions
from edgellm.server.bodies import Body, ModelBody, SamplingFields
from edgellm.server.choices import Chosen, Given, choose
from edgellm.server.errors import RequestError
from edgellm.server.thoughts import Thinking, read_level


class TextFormat(Body):
    """The form of the text; a schema holds whether or not it is asked to be strict."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    strict: bool | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class TextConfig(Body):
    """The `text` of a request."""

    format: TextFormat | None = None


class Reasoning(Body):
    """The `reasoning` of a request."""

    effort: str | None = None


class ResponsesBody(ModelBody, SamplingFields):
    """POST /v1/responses."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool = False
    truncation: Literal["auto", "disabled"] = "disabled"
    text: TextConfig | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    reasoning: Reasoning | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Given = "auto"
    parallel_tool_calls: bool | None = None
    thinking_budget_tokens: int | None = Field(None, ge=0)

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

    def unread(self) -> list[str]:
        tools = [f"tools.{n}.{tool.get('type')}" for n, tool in enumerate(self.tools) if not _usable(tool)]
        items = self.input if isinstance(self.input, list) else []
        skipped = [f"input.{n}.{kind}" for n, item in enumerate(items) if (kind := _kind(item)) not in _ITEMS]
        reasoning = [f"reasoning.{name}" for name in (self.reasoning or Reasoning()).unread()]
        return [*super().unread(), *reasoning, *tools, *skipped]

    def thoughts(self) -> Thinking:
        """Level and budget of thinking; RequestError for a level that there is not."""
        effort, field = (self.reasoning or Reasoning()).effort, "reasoning.effort"
        level = None if effort is None else read_level(effort, field)
        return Thinking(level, field, self.thinking_budget_tokens, "thinking_budget_tokens")

    def chosen(self) -> Chosen:
        """The tools that the client runs itself, and which of them may be called; others are left out."""
        usable = [_as_function(tool) for tool in self.tools if _usable(tool)]
        return choose(usable, self.tool_choice, parallel=self.parallel_tool_calls)

    @property
    def custom(self) -> set[str]:
        """The names of tools that take a text."""
        return {str(tool.get("name")) for tool in self.tools if tool.get("type") == "custom"}


# Items of the input that are part of the conversation; thoughts of earlier turns are not given back.
_ITEMS = frozenset(
    {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
    | {"reasoning"}
)
_TEXT_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _kind(item: Mapping[str, Any]) -> str:
    return str(item.get("type") or "message")


def _usable(tool: Mapping[str, Any]) -> bool:
    """True for tools that the client runs itself: functions, and custom tools, which take a text."""
    return tool.get("type", "function") in ("function", "custom")


def _as_function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A custom tool as a function of one text."""
    if tool.get("type", "function") != "custom":
        return tool
    grammar = tool.get("format")
    definition = grammar.get("definition") if isinstance(grammar, Mapping) else None
    told = f"{tool.get('description') or ''}\n{definition or ''}".strip()
    return {"type": "function", "name": tool.get("name"), "description": told, "parameters": _TEXT_INPUT}


def conversation(body: ResponsesBody) -> list[dict[str, Any]]:
    """The input as messages; items of other kinds are skipped."""
    found: list[dict[str, Any]] = []
    if body.instructions:
        found.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*found, {"role": "user", "content": body.input}]
    for number, item in enumerate(body.input):
        kind = _kind(item)
        if kind == "item_reference":
            raise RequestError(
                400,
                f"input.{number} refers to an item of an earlier response, and this server keeps none; send "
                "the item itself.",
                param=f"input.{number}",
            )
        if kind == "message":
            found.append({"role": item.get("role"), "content": item.get("content")})
        elif kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments") if kind == "function_call" else {"input": item.get("input")}
            function = {"name": item.get("name"), "arguments": arguments}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if found and found[-1].get("tool_calls"):
                found[-1]["tool_calls"].append(call)
            else:
                found.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind in ("function_call_output", "custom_tool_call_output"):
            result = item.get("output")
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": result})
    return found
