"""Tools and the choice among them, in the forms that clients of the OpenAI APIs send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edgellm.chat.tools import Tool, ToolChoice, read_tools
from edgellm.server.errors import RequestError

Given: TypeAlias = str | dict[str, Any] | None

_MODES: dict[str, Literal["none", "auto", "required"]] = {
    "none": "none",
    "auto": "auto",
    "required": "required",
    "any": "required",
}
_NAMED = ("function", "tool", "custom")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The tools of a request; choice: None if none of them may be called."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice | None = None


def choose(tools: Sequence[Any] | None, wanted: Given, *, parallel: bool | None = None) -> Chosen:
    """Read tools and a tool_choice: a mode, {"type": mode}, a named tool, or allowed tools.

    A named tool may be nested ({"function": {"name"}}) or flat ({"name"}). RequestError or UsageError names
    the field of what is malformed.
    """
    known = read_tools(tools or ())
    if isinstance(wanted, str) or wanted is None:
        return _of_mode(known, wanted or "auto", parallel)
    kind = str(wanted.get("type", "function")).lower()
    if kind in _MODES:
        return _of_mode(known, kind, parallel)
    if kind == "allowed_tools":
        allowed = wanted.get("allowed_tools", wanted)
        names = _names(allowed)
        return _of_mode(
            [tool for tool in known if tool.name in names], str(allowed.get("mode", "auto")), parallel
        )
    name = _name(wanted) if kind in _NAMED else None
    if name is None:
        raise RequestError(
            400,
            f"tool_choice is of type {kind[:40]!r} and names no function; it must be none, auto, required, "
            'any, {"type": "function", "function": {"name": ...}} or allowed_tools.',
            param="tool_choice",
        )
    return one_tool(known, name)


def one_tool(tools: Sequence[Tool], name: str) -> Chosen:
    """The choice of a single call of one tool; RequestError if there is no such tool."""
    if not tools:
        raise RequestError(400, f"tool_choice names {name[:128]!r} and there are no tools.", param="tools")
    if name not in (tool.name for tool in tools):
        raise RequestError(
            400, f"tool_choice names {name[:128]!r}, and no tool has that name.", param="tool_choice"
        )
    return Chosen(tuple(tools), ToolChoice("required", name, parallel=False))


def _of_mode(tools: Sequence[Tool], given: str, parallel: bool | None) -> Chosen:
    mode = _MODES.get(given.lower())
    if mode is None and given in (tool.name for tool in tools):
        return one_tool(tools, given)
    if mode is None:
        raise RequestError(
            400,
            f"tool_choice is {given[:40]!r}; expected none, auto, required, any or a tool's name.",
            param="tool_choice",
        )
    if mode == "required" and not tools:
        raise RequestError(400, "tool_choice asks for a call and there are no tools.", param="tools")
    if mode == "none" or not tools:
        return Chosen(tuple(tools))
    return Chosen(tuple(tools), ToolChoice(mode, parallel=parallel is not False))


def _name(given: Any) -> str | None:
    """The name in a named tool, nested or flat."""
    if not isinstance(given, Mapping):
        return None
    inner = next((given[kind] for kind in _NAMED if isinstance(given.get(kind), Mapping)), given)
    name = inner.get("name")
    return name if isinstance(name, str) and name else None


def _names(allowed: Any) -> set[str | None]:
    listed = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if not isinstance(listed, list) or not listed:
        raise RequestError(
            400, "tool_choice of type allowed_tools lists no tools.", param="tool_choice.allowed_tools.tools"
        )
    return {_name(tool) for tool in listed}
