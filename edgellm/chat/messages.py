"""Chat messages: plain dicts from callers, checked and brought to the one form templates are given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgellm.errors import TemplateError, UnsupportedError

Message = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_NESTING = 64


def normalize_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Deep copies of the messages, content as a string.

    Text parts are joined by newlines, JSON texts of tool call arguments become objects. Raises
    TemplateError for an unknown role, missing or malformed content, or no messages at all, and
    UnsupportedError for content that is not text.
    """
    result = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise TemplateError(
                f"Message {number} is a {type(message).__name__}, expected an object with role and content"
            )
        role = message.get("role")
        if role not in ROLES:
            raise TemplateError(
                f"Message {number} has the role {str(role)[:40]!r}, expected one of {', '.join(ROLES)}"
            )
        plain: dict[str, Any] = {str(key): plain_data(value) for key, value in message.items()}
        plain["content"] = _content(number, role, message)
        if plain.get("tool_calls") is not None:
            plain["tool_calls"] = _tool_calls(number, plain["tool_calls"])
        else:
            plain.pop("tool_calls", None)
        result.append(plain)
    if not result:
        raise TemplateError("There are no messages, expected at least one")
    return result


def plain_data(value: object, depth: int = 0) -> Any:
    """A deep copy of JSON-like data; TemplateError for anything else (a template sees no other objects)."""
    if depth > MAX_NESTING:
        raise TemplateError(f"A message or tool nests more than {MAX_NESTING} levels deep")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_data(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain_data(item, depth + 1) for item in value]
    raise TemplateError(
        f"A message or tool contains a {type(value).__name__}, expected text, numbers, lists and objects"
    )


def _content(number: int, role: str, message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and role == "assistant" and message.get("tool_calls"):
        return ""
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        return "\n".join(_part_text(number, part) for part in content)
    found = "no content" if content is None else f"content of type {type(content).__name__}"
    raise TemplateError(f"Message {number} ({role}) has {found}, expected a string or a list of text parts")


def _part_text(number: int, part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise TemplateError(
            f"Message {number} has a content part of type {type(part).__name__}, expected an object"
        )
    kind = part.get("type")
    if kind not in ("text", "input_text", "output_text"):
        raise UnsupportedError(
            f"Message {number} has a content part of type {str(kind)[:40]!r}; only text is supported"
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise TemplateError(f"Message {number} has a text part without a text")
    return text


def _tool_calls(number: int, calls: object) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise TemplateError(f"Message {number} has tool_calls that are not a list of objects")
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise TemplateError(f"Message {number} has a tool call without a function name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                parsed = json.loads(arguments)
            except ValueError:
                continue
            if isinstance(parsed, dict):
                function["arguments"] = plain_data(parsed)
    return calls
