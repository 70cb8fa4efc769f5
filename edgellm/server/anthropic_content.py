"""Anthropic's blocks of content as the messages that templates know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.server.anthropic_bodies import PromptBody
from edgellm.server.errors import RequestError

# Blocks that are not given to the model again: thoughts, and uses and results of tools that ran on a server.
_SKIPPED = frozenset(
    {"thinking", "redacted_thinking", "server_tool_use", "mcp_tool_use", "container_upload", "fallback"}
)
_ROLES = ("user", "assistant", "system")


def conversation(body: PromptBody) -> list[dict[str, Any]]:
    """The messages of a request; RequestError names content that is not supported."""
    found: list[dict[str, Any]] = []
    if body.system:
        found.append({"role": "system", "content": _text(body.system, "system")})
    for number, turn in enumerate(body.messages):
        role = turn.role.lower()
        if role not in _ROLES:
            raise RequestError(
                400, f"messages.{number}.role is {turn.role[:40]!r}; it must be user or assistant."
            )
        if isinstance(turn.content, str):
            found.append({"role": role, "content": turn.content})
        else:
            found.extend(_turn(role, turn.content, f"messages.{number}.content"))
    return found


def _turn(role: str, blocks: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, Any]]:
    """The messages that a list of blocks becomes: results of tools are messages of their own."""
    results = [block for block in blocks if block.get("type") == "tool_result"]
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    texts = [block for block in blocks if block.get("type") not in ("tool_result", "tool_use")]
    found: list[dict[str, Any]] = [
        {
            "role": "tool",
            "tool_call_id": str(block.get("tool_use_id", "")),
            "content": _text(block.get("content") or "", place),
        }
        for block in results
    ]
    if texts or calls or not results:
        message: dict[str, Any] = {"role": role, "content": _text(texts, place)}
        if calls:
            message["tool_calls"] = [_call(block, place) for block in calls]
        found.append(message)
    return found


def _call(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    name, arguments = block.get("name"), block.get("input", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RequestError(400, f"{place}: a tool_use block needs a name and an input that is an object.")
    return {
        "id": str(block.get("id", "")),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _text(given: str | Sequence[Mapping[str, Any]], place: str) -> str:
    """The text of blocks; RequestError for one that holds something else."""
    if isinstance(given, str):
        return given
    texts = (_block_text(block, place) for block in given if not _is_skipped(block))
    return "\n".join(texts)


def _is_skipped(block: Mapping[str, Any]) -> bool:
    kind = str(block.get("type"))
    return kind in _SKIPPED or kind.endswith("_tool_result")


def _block_text(block: Mapping[str, Any], place: str) -> str:
    kind = block.get("type")
    text: object = None
    if kind == "text":
        text = block.get("text")
    elif kind == "tool_reference":
        text = block.get("tool_name")
    elif kind == "compaction":
        text = block.get("content") or ""
    elif kind == "search_result":
        head = [str(block[name]) for name in ("title", "source") if block.get(name)]
        text = "\n".join([*head, _text(block.get("content") or "", place)])
    elif kind == "document":
        text = _document(block, place)
    if isinstance(text, str):
        return text
    raise RequestError(
        400, f"{place}: a block of type {str(kind)[:40]!r} is not text; only text is supported."
    )


def _document(block: Mapping[str, Any], place: str) -> str | None:
    """The title, context and text of a document; None if it is no text."""
    source = block.get("source")
    if not isinstance(source, Mapping) or source.get("type") not in ("text", "content"):
        return None
    head = [str(block[name]) for name in ("title", "context") if block.get(name)]
    held = source.get("data") if source["type"] == "text" else source.get("content")
    if isinstance(held, list):
        held = _text(held, place)
    return "\n".join([*head, held]) if isinstance(held, str) else None
