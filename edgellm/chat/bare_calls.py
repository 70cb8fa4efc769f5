"""Calls that a model writes without its own marks: a JSON object by itself, or in a fence of Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Protocol

from edgellm.chat.parts import Call, Part, Words

MAX_HELD = 64 * 1024
_NAMES = ("name", "function", "tool", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_FENCE = re.compile(r"\A```[a-z_]*\s*(.*?)\s*```\s*\Z", re.DOTALL)
# A beginning of a fence, or of an object or a list of objects whose first member names a call.
_BEGINS = re.compile(
    r'\A\s*(?:`{0,3}\Z|```(?:[a-z_]*\Z|[a-z_]*\s*)|)(?:\Z|\[?\s*(?:\Z|\{\s*(?:\Z|"(?:\w{0,12}\Z|(?:type|id|'
    + "|".join(_NAMES)
    + r')"))))'
)


class Parser(Protocol):
    """Takes an answer apart as it comes."""

    @property
    def n_calls(self) -> int: ...

    def push(self, text: str) -> list[Part]: ...

    def flush(self) -> list[Part]: ...


class BareCalls:
    """A parser that reads calls of known tools where an answer is nothing but them.

    Words that may become such a call are held back; once they cannot, they are words again.
    """

    def __init__(self, inner: Parser, names: Collection[str]) -> None:
        self._inner = inner
        self._names = frozenset(names)
        self._held: str | None = ""
        self._n_found = 0

    @property
    def n_calls(self) -> int:
        return self._n_found or self._inner.n_calls

    def push(self, text: str) -> list[Part]:
        """More of the answer."""
        return list(self._sorted(self._inner.push(text)))

    def flush(self) -> list[Part]:
        """The rest, once the answer has ended."""
        parts = list(self._sorted(self._inner.flush()))
        held, self._held = self._held, None
        if not held:
            return parts
        calls = [] if self._inner.n_calls else read_calls(held, self._names)
        if not calls:
            return [*parts, Words(held)]
        self._n_found = len(calls)
        found: list[Part] = []
        for index, (name, arguments) in enumerate(calls):
            found += [Call(index, name, ""), Call(index, None, arguments)]
        return [*parts, *found]

    def _sorted(self, parts: list[Part]) -> Iterator[Part]:
        for part in parts:
            if self._held is None:
                yield part
            elif isinstance(part, Words):
                self._held += part.text
                if len(self._held) > MAX_HELD or not _BEGINS.match(self._held):
                    yield Words(self._held)
                    self._held = None
            else:
                if isinstance(part, Call) and self._held:
                    yield Words(self._held)
                    self._held = None
                yield part


def read_calls(text: str, names: Collection[str]) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of the calls that a text is; none if it is anything else."""
    fenced = _FENCE.match(text.strip())
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return []
    calls = [_call(one, names) for one in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if calls and None not in calls else []


def _call(value: Any, names: Collection[str]) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    inner = value["function"] if isinstance(value.get("function"), dict) else value
    name = next((inner[key] for key in _NAMES if isinstance(inner.get(key), str)), None)
    arguments: Any = next((inner[key] for key in _ARGUMENTS if key in inner), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if name is None or name not in names or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
