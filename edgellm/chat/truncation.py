"""Conversations that are too long: the oldest exchanges are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

M = TypeVar("M", bound=Mapping[str, Any])

# Share of a context that an answer has room for when messages are left out, and of the conversation that is
# left out at a time: what stays is then found in the prefix cache for some exchanges.
ROOM = 4
STEP = 4


def largest_prompt(n_ctx: int, max_tokens: int | None) -> int:
    """Most tokens of a prompt that leaves room for an answer: a quarter of the context, or max_tokens if that
    is less.
    """
    room = n_ctx // ROOM
    return n_ctx - max(1, room if max_tokens is None else min(room, max_tokens))


def without_oldest(messages: Sequence[M]) -> list[M] | None:
    """The messages without the oldest exchanges, a quarter of their text; None if only one exchange is left.

    An exchange begins with a message of the user. Instructions at the beginning stay.
    """
    n_fixed = 0
    while n_fixed < len(messages) and messages[n_fixed].get("role") in ("system", "developer"):
        n_fixed += 1
    begins = [n for n in range(n_fixed + 1, len(messages)) if messages[n].get("role") == "user"]
    if not begins:
        return None
    sizes = [len(str(message.get("content") or "")) for message in messages]
    wanted = sum(sizes[n_fixed:]) / STEP
    begin = next((n for n in begins if sum(sizes[n_fixed:n]) >= wanted), begins[-1])
    return [*messages[:n_fixed], *messages[begin:]]
