"""Chat messages: plain dicts from callers, checked and brought to the form that a template takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from edgellm.errors import TemplateError, UnsupportedError

Message = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names that clients and templates give to an assistant's thoughts."""
SYSTEM_WORDS = "words_of_system_message"
"""Name, among the variables of a level of thinking, of words that are put into the system message instead."""
MAX_NESTING = 64


class Forms(NamedTuple):
    """Forms of messages that a template takes.

    content: a text, a list of parts, or either. arguments: of a call, an object or its JSON text.
    thoughts: the key of an assistant's thoughts. single_calls: no more than one call in a message.
    no_content: a message of calls without words has no content, rather than an empty one. named_ids: the
    template writes a call's id alone, which must hold its name.
    """

    content: Literal["text", "parts", "either"] = "text"
    arguments: Literal["object", "text"] = "object"
    thoughts: str = THOUGHT_KEYS[0]
    single_calls: bool = False
    no_content: bool = False
    named_ids: bool = False


def named_id(name: str, number: int) -> str:
    """The id of a conversation's n-th call, from 0, for a template that writes no names of calls."""
    return f"functions.{name}:{number}"


def normalize_messages(messages: Iterable[Message], forms: Forms | None = None) -> list[dict[str, Any]]:
    """Deep copies of the messages, in the forms that a template takes.

    Raises TemplateError for an unknown role, missing or malformed content, or no messages at all, and
    UnsupportedError for content that is not text.
    """
    return adapt(check_messages(messages), forms or Forms())


def check_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Deep copies of the messages as they are given; raises as `normalize_messages`."""
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
            _check_calls(number, plain["tool_calls"])
        else:
            plain.pop("tool_calls", None)
        result.append(plain)
    if not result:
        raise TemplateError("There are no messages, expected at least one")
    return result


def adapt(messages: Sequence[dict[str, Any]], forms: Forms) -> list[dict[str, Any]]:
    """Checked messages in the forms that a template takes; their lists and objects may be shared."""
    result: list[dict[str, Any]] = []
    for message in messages:
        message = {**message, "content": _in_form(message["content"], forms.content)}
        if "tool_calls" in message:
            message["tool_calls"] = [_call_in_form(call, forms.arguments) for call in message["tool_calls"]]
            if forms.no_content and not message["content"]:
                message["content"] = None
        result.append(rename_thoughts(message, forms.thoughts))
    if forms.named_ids:
        result = _with_named_ids(result)
    return _one_call_each(result) if forms.single_calls else result


def _with_named_ids(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls, and the results of these, have ids that hold the calls' names."""
    changed: dict[Any, str] = {}
    result: list[dict[str, Any]] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                name = call.get("function", call)["name"]
                new = named_id(name, len(changed))
                changed[call.get("id", new)] = new
                calls.append({**call, "id": new})
            message = {**message, "tool_calls": calls}
        elif message.get("tool_call_id") in changed:
            message = {**message, "tool_call_id": changed[message["tool_call_id"]]}
        result.append(message)
    return result


def with_system_words(messages: Sequence[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Checked messages, with words at the end of the system message, which is made if there is none."""
    first, *rest = messages
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": words}, *messages]
    content = first["content"]
    if isinstance(content, list):
        return [{**first, "content": [*content, {"type": "text", "text": words}]}, *rest]
    return [{**first, "content": f"{content}\n{words}" if content else words}, *rest]


def rename_thoughts(message: dict[str, Any], key: str) -> dict[str, Any]:
    """The message with its thoughts under `key`, if it has thoughts and none there."""
    if message["role"] != "assistant" or message.get(key):
        return message
    thoughts = next((message[k] for k in THOUGHT_KEYS if isinstance(message.get(k), str)), None)
    return message if thoughts is None else {**message, key: thoughts}


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


def _content(number: int, role: str, message: Message) -> str | list[dict[str, str]] | None:
    content = message.get("content")
    if isinstance(content, str):
        return str(content)
    if content is None and role == "assistant" and message.get("tool_calls"):
        return None
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        return [{"type": "text", "text": _part_text(number, part)} for part in content]
    found = "no content" if content is None else f"content of type {type(content).__name__}"
    raise TemplateError(f"Message {number} ({role}) has {found}, expected a string or a list of text parts")


def _part_text(number: int, part: object) -> str:
    if isinstance(part, str):
        return str(part)
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
    return str(text)


def _in_form(content: Any, form: str) -> Any:
    if content is None:
        content = ""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form == "parts" else content
    return "\n".join(part["text"] for part in content) if form == "text" else content


def _check_calls(number: int, calls: object) -> None:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise TemplateError(f"Message {number} has tool_calls that are not a list of objects")
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise TemplateError(f"Message {number} has a tool call without a function name")


def _call_in_form(call: dict[str, Any], form: str) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if form == "text" and isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif form == "object" and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return call
        if isinstance(parsed, dict):
            arguments = plain_data(parsed)
    if arguments is function.get("arguments"):
        return call
    changed = {**function, "arguments": arguments}
    return {**call, "function": changed} if "function" in call else changed


def _one_call_each(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with several calls as several, each followed by its result."""
    result: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool" and waiting:
            mine = next((m for m in waiting if _answers(message, m)), waiting[0])
            waiting.remove(mine)
            result += [mine, message]
            continue
        result += waiting
        waiting = []
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            result.append(message)
            continue
        later = {k: v for k, v in message.items() if k not in THOUGHT_KEYS} | {"content": _blank(message)}
        waiting = [{**(message if i == 0 else later), "tool_calls": [call]} for i, call in enumerate(calls)]
    return result + waiting


def _answers(result: dict[str, Any], message: dict[str, Any]) -> bool:
    identity = result.get("tool_call_id")
    return identity is not None and message["tool_calls"][0].get("id") == identity


def _blank(message: dict[str, Any]) -> Any:
    return [] if isinstance(message["content"], list) else ""
