"""Messages as clients send them, brought to the one form that templates are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Roles whose messages may say nothing in words: aborted turns, refusals, thoughts, results without output.
_SILENT = ("assistant", "tool", "function")


def read_messages(given: Sequence[Mapping[str, Any]], *, silent: bool = False) -> list[dict[str, Any]]:
    """Copies with roles in lower case, an empty text for missing content, and older forms of calls renewed.

    silent: any message may lack content, as where clients leave out what is empty.
    """
    return [_message(message, silent) for message in given]


def _message(given: Mapping[str, Any], silent: bool) -> dict[str, Any]:
    message = dict(given)
    if isinstance(message.get("role"), str):
        message["role"] = message["role"].lower()
    if message.get("content") is None and (silent or message.get("role") in _SILENT):
        message["content"] = message.get("refusal") or ""
    if isinstance(content := message.get("content"), list):
        message["content"] = [_part(part) for part in content]
    call = message.pop("function_call", None)
    if isinstance(call, Mapping) and not message.get("tool_calls"):
        message["tool_calls"] = [{"type": "function", "id": str(call.get("name")), "function": dict(call)}]
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    return message


def _part(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return part
