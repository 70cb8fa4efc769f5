"""Calls that come bare or fenced, in pieces of any size, and texts that only look like them."""

from __future__ import annotations

import pytest

from edgellm.chat.bare_calls import BareCalls
from edgellm.chat.parts import Call, PartParser, Words

CALLS = [
    '{"name": "f", "arguments": {"a": 1}}',
    '{"name": "f", "parameters": {"a": 1}}\n',
    '```json\n{"name": "f", "arguments": {"a": 1}}\n```',
    '```\n{"name": "f", "arguments": {"a": 1}}\n```\n',
    '```tool_call\n{"tool": "f", "args": {"a": 1}}\n```',
    ' [{"name": "f", "arguments": {"a": 1}}]',
    '{"type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}',
    '{"function": "f", "input": {"a": 1}}',
]
WORDS = [
    "",
    "hello",
    "{",
    "```",
    "```python\nprint(1)\n```",
    '{"name": "g", "arguments": {}}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": {}} and more',
    'See: {"name": "f", "arguments": {}}',
    '{"city": "Paris"}',
    '[{"name": "f"}, 1]',
    '{"name": "f", "arguments": {"a": 1}',
    "[1, 2]",
]


def run(text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    parser = BareCalls(PartParser(), ["f"])
    parts = [part for n in range(0, len(text), size) for part in parser.push(text[n : n + size])]
    parts += parser.flush()
    words = "".join(part.text for part in parts if isinstance(part, Words))
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Call) and part.name is not None:
            calls.append((part.name, part.arguments))
        elif isinstance(part, Call):
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    assert parser.n_calls == len(calls)
    return words, calls


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("text", CALLS)
def test_a_call_without_marks(text: str, size: int) -> None:
    assert run(text, size) == ("", [("f", '{"a": 1}')])


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", WORDS)
def test_words_that_are_no_call(text: str, size: int) -> None:
    assert run(text, size) == (text, [])


def test_words_are_not_held_longer_than_they_may_be_a_call() -> None:
    parser = BareCalls(PartParser(), ["f"])
    assert parser.push("Hel") == [Words("Hel")]
    parser = BareCalls(PartParser(), ["f"])
    assert parser.push('{"ci') == []
    assert parser.push('ty": ') == [Words('{"city": ')]
    assert parser.push("x") == [Words("x")]
