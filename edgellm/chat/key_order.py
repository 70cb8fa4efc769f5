"""Calls written as JSON objects whose keys stand in another order than the template writes them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection

from edgellm.chat.syntax import Slot, Syntax, first_mark, merge

MAX_HELD = 16 * 1024
"""Characters that are held back while they may become such a call."""
_KEY = re.compile(r'"(\w+)"\s*:\s*"?\Z')


def _keys(syntax: Syntax) -> tuple[str, str] | None:
    """Keys of a call's name and arguments; None if calls are not JSON objects."""
    form = syntax.arguments
    if form.kind != "object" or form.values != "json":
        return None
    pieces = merge((*syntax.head, Slot.ARGUMENTS, *syntax.closing))
    found: dict[object, str] = {}
    for before, slot in itertools.pairwise(pieces):
        key = _KEY.search(before) if isinstance(before, str) else None
        if key is not None:
            found[slot] = key[1]
    return (found[Slot.NAME], found[Slot.ARGUMENTS]) if {Slot.NAME, Slot.ARGUMENTS} <= found.keys() else None


def read_calls(
    syntax: Syntax, text: str, names: Collection[str] | None, final: bool
) -> tuple[list[tuple[str, str]], str] | None:
    """(name, arguments as JSON) of the calls that `text` begins with, and the text after them.

    No calls if the text is none; None if more text may tell. `names` are those of the tools; None admits any.
    """
    nothing: list[tuple[str, str]] = []
    first = syntax.first[0] if syntax.first and isinstance(syntax.first[0], str) else ""
    mark = first_mark(first)
    keys = _keys(syntax)
    if not mark or keys is None or mark not in text:
        return nothing, text
    rest = text[text.find(mark) + len(mark) :].lstrip()
    if rest and rest[0] not in "[{":
        return nothing, text
    final = final or len(rest) >= MAX_HELD
    if not final and not rest.rstrip().endswith(("]", "}", ">")):
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):
        return (nothing, text) if final else None
    calls = [_call(one, keys, names) for one in (value if isinstance(value, list) else [value])]
    found = [call for call in calls if call is not None]
    return (found, rest[end:]) if len(found) == len(calls) else (nothing, text)


def _call(value: object, keys: tuple[str, str], names: Collection[str] | None) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    name, arguments = value.get(keys[0]), value.get(keys[1], {})
    if not isinstance(name, str) or (names is not None and name not in names):
        return None
    return (name, json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
