"""The part of Go's templates that prompts of single questions need: variables, if, else, end.

Source: Ollama's documentation of `template` in /api/generate and Go's text/template. Loops and functions are
refused: those are for chats, whose template is the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgellm.server.errors import RequestError

MAX_CHARS = 16 * 1024
_ACTION = re.compile(r"(\s*\{\{-|\{\{)(.*?)(-\}\}\s*|\}\})", re.DOTALL)


def expand(template: str, values: Mapping[str, str]) -> str:
    """The text that a template makes of these values; RequestError for what it cannot be made of."""
    if len(template) > MAX_CHARS:
        raise _refusal(f"is {len(template)} characters long; at most {MAX_CHARS} are accepted")
    parts: list[str] = []
    # Each open `if`: the branch taken is shown, inside a branch that is shown.
    shown: list[bool] = [True]
    position = 0
    for found in _ACTION.finditer(template):
        if all(shown):
            parts.append(template[position : found.start()])
        position = found.end()
        action = found[2].strip()
        if action.startswith("if "):
            shown.append(bool(_value(action[3:], values)))
        elif action == "else" and len(shown) > 1:
            shown[-1] = not shown[-1]
        elif action == "end" and len(shown) > 1:
            shown.pop()
        elif not action.startswith("/*") and all(shown):
            parts.append(_value(action, values))
    if len(shown) > 1:
        raise _refusal("has an if without an end")
    return "".join([*parts, template[position:]])


def _value(name: str, values: Mapping[str, str]) -> str:
    key = name.strip()
    if not key.startswith(".") or key[1:] not in values:
        known = ", ".join(f".{each}" for each in values)
        raise _refusal(f"holds {key[:80]!r}; supported are {known}, if, else and end")
    return values[key[1:]]


def _refusal(found: str) -> RequestError:
    return RequestError(400, f"template {found}.", param="template")
