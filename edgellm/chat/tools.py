"""Tools that a model may call, and conversations with tools for templates that know nothing of them.

How calls are written is learned from the chat template, which shows models their own earlier calls
(`learning`). A template that shows no tools gets them as part of the system message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgellm.chat.known import MARKS as MARKS
from edgellm.chat.relax import pruned
from edgellm.chat.syntax import BOS, EOS, Syntax
from edgellm.errors import UsageError

MAX_TOOLS = 1024
_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the caller can run: `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """auto: the model decides; required: at least one call, of the tool `name` if that is not None."""

    mode: Literal["auto", "required"] = "auto"
    name: str | None = None
    parallel: bool = True


def syntax_of(template: str, bos: str = BOS, eos: str = EOS) -> Syntax:
    """Syntax of calls and thoughts, learned from its chat template."""
    from edgellm.chat.learning import learn

    return learn(template, bos, eos)


def read_tools(given: Sequence[object]) -> list[Tool]:
    """Tools as the OpenAI API writes them; UsageError, naming the field, for what is malformed."""
    if len(given) > MAX_TOOLS:
        raise UsageError(f"There are {len(given)} tools; at most {MAX_TOOLS} are accepted.")
    tools: list[Tool] = []
    names: set[str] = set()
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
            raise UsageError(f'{where} must be an object with type "function".')
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{where} has the name {str(name)[:80]!r}; expected 1 to 128 letters, digits or _.:/-."
            )
        if name in names:
            raise UsageError(f"{where} has the name {name!r}, as another tool has.")
        names.add(name)
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        schema = pruned(parameters) if isinstance(parameters, Mapping) else {"type": "object"}
        tools.append(Tool(name, str(function.get("description") or ""), {"type": "object", **schema}))
    return tools


def read_choice(given: str, tools: Sequence[Tool]) -> ToolChoice | None:
    """Choice that auto, none, required or the name of a tool means; None: no tool may be called."""
    if given == "none" or not tools:
        return None
    if given in ("auto", "required"):
        return ToolChoice(given)  # type: ignore[arg-type]
    if given not in (tool.name for tool in tools):
        names = ", ".join(tool.name for tool in tools)
        raise UsageError(
            f"tool_choice is {given!r}; expected auto, none, required or a tool's name ({names})."
        )
    return ToolChoice("required", given)


def fold_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], syntax: Syntax, template: str
) -> list[dict[str, Any]]:
    """The messages for a template: tools, calls and results written out if it knows nothing of them."""
    ids_are_short = "[TOOL_CALLS]" in template
    if syntax.native:
        return [_short_ids(message) if ids_are_short else dict(message) for message in messages]
    folded: list[dict[str, Any]] = []
    for message in messages:
        if syntax.writes:
            folded.append(_short_ids(message) if ids_are_short else dict(message))
        elif message.get("role") in ("tool", "function"):
            result = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
            if folded and folded[-1].get("role") == "user" and "<tool_response>" in folded[-1]["content"]:
                folded[-1]["content"] += "\n" + result
            else:
                folded.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            written = syntax.write([_call(call) for call in message["tool_calls"]])
            said = _text(message.get("content"))
            folded.append({"role": "assistant", "content": f"{said}\n{written}" if said else written})
        else:
            folded.append(dict(message))
    if tools:
        _add_instructions(folded, _instructions(tools, syntax), template)
    return folded


def _instructions(tools: Sequence[Tool], syntax: Syntax) -> str:
    listed = "\n".join(json.dumps(tool.as_dict()["function"], ensure_ascii=False) for tool in tools)
    form = syntax.write([("NAME", "{...}")])
    return (
        "You can call these functions, each given with the JSON schema of its arguments:\n"
        f"<tools>\n{listed}\n</tools>\n"
        f"To call one, answer in exactly this form, with its name and its arguments:\n{form}\n"
        "Call a function only if it helps to answer; otherwise answer in plain words."
    )


def _add_instructions(messages: list[dict[str, Any]], text: str, template: str) -> None:
    first = messages[0] if messages else {}
    from edgellm.chat.probing import prober

    takes_system = prober(template).takes_system
    if first.get("role") in (("system", "developer") if takes_system else ("user",)):
        messages[0] = {**first, "content": f"{_text(first.get('content'))}\n\n{text}"}
    else:
        messages.insert(0, {"role": "system" if takes_system else "user", "content": text})


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def _call(call: object) -> tuple[str, str]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError("A message has a tool call without a function name.")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return function["name"], text


def _short_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's templates refuse ids of calls that are not nine letters and digits."""

    def short(identity: object) -> str:
        text = str(identity)
        return text if re.fullmatch("[a-zA-Z0-9]{9}", text) else hashlib.sha256(text.encode()).hexdigest()[:9]

    result = dict(message)
    if "tool_call_id" in message:
        result["tool_call_id"] = short(message["tool_call_id"])
    if isinstance(message.get("tool_calls"), list):
        result["tool_calls"] = [
            {**call, "id": short(call.get("id"))} if isinstance(call, Mapping) else call
            for call in message["tool_calls"]
        ]
    return result
