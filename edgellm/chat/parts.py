"""Takes an answer apart as it comes: thoughts, words, and calls of tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgellm.chat.tools import END_THINK, THINK, Syntax


@dataclass(frozen=True, slots=True)
class Words:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself, between <think> and </think>."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """The beginning of a call, or more of its arguments' JSON: name is None after the first part."""

    index: int
    name: str | None
    arguments: str


Part: TypeAlias = Words | Thought | Call
_State: TypeAlias = Literal["begin", "thought", "after thought", "words", "head", "arguments", "tail", "done"]


class PartParser:
    """Pushes pieces of text in, gets parts out; never lets a piece of a mark through as words.

    syntax: how calls of the tools `names` are written, if there are any. forced: the answer is calls.
    thinks: the model may think. thinking: the prompt has begun its thoughts.
    """

    def __init__(
        self,
        syntax: Syntax | None = None,
        names: Sequence[str] = (),
        *,
        thinks: bool = False,
        thinking: bool = False,
    ) -> None:
        self._syntax = syntax
        self._heads = {} if syntax is None else {syntax.head(name): name for name in names}
        self._thinks = thinks
        self._state: _State = "thought" if thinking else "begin"
        self._held = ""
        self._depth, self._in_string, self._escaped = 0, False, False
        self.n_calls = 0

    def push(self, text: str) -> list[Part]:
        """More of the answer."""
        self._held += text
        return self._run(final=False)

    def flush(self) -> list[Part]:
        """What was held back, once the answer has ended."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        while True:
            before = (self._state, self._held)
            step = getattr(self, "_in_" + self._state.replace(" ", "_"))
            part = step(final)
            if part is not None:
                parts.append(part)
            if before == (self._state, self._held):
                return parts

    def _in_begin(self, final: bool) -> Part | None:
        """Nothing has come yet that tells what this is."""
        syntax = self._syntax
        begun = self._held.lstrip()
        if self._thinks and begun.startswith(THINK):
            self._held, self._state = begun[len(THINK) :], "thought"
        elif self._thinks and THINK.startswith(begun) and not final:
            return None
        elif syntax is not None and not syntax.begin:
            begun = begun.removeprefix("<|python_tag|>")
            if any(begun.startswith(head) for head in self._heads):
                self._held, self._state = begun, "head"
            elif final or not any(start.startswith(begun) for start in ("<|python_tag|>", *self._heads)):
                self._state = "words"
        else:
            self._state = "words"
        return None

    def _in_thought(self, final: bool) -> Part | None:
        found = self._held.find(END_THINK)
        if found >= 0:
            text, self._held = self._held[:found], self._held[found + len(END_THINK) :]
            self._state = "after thought"
        else:
            text = self._release([END_THINK], final)
        return Thought(text) if text else None

    def _in_after_thought(self, final: bool) -> Part | None:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._thinks = False
            self._state = "begin"
        return None

    def _in_words(self, final: bool) -> Part | None:
        mark = self._syntax.begin.rstrip("\n [") if self._syntax is not None else ""
        if not mark:
            text, self._held = self._held, ""
            return Words(text) if text else None
        assert self._syntax is not None
        found = self._held.find(mark)
        if found < 0:
            text = self._release([mark], final)
            return Words(text) if text else None
        # Line breaks before a call belong to neither.
        text, rest = self._held[:found], self._held[found:]
        begin = self._syntax.begin
        if rest.startswith(begin):
            self._held, self._state = rest[len(begin) :], "head"
        elif final or not begin.startswith(rest):
            self._held, self._state = "", "words"
            text += rest
        else:
            self._held = rest
        return Words(text) if text else None

    def _in_head(self, final: bool) -> Part | None:
        for head, name in self._heads.items():
            if self._held.startswith(head):
                self._held = self._held[len(head) :]
                self._state, self._depth, self._in_string = "arguments", 0, False
                self.n_calls += 1
                return Call(self.n_calls - 1, name, "")
        if final:
            self._held = ""
        return None

    def _in_arguments(self, final: bool) -> Part | None:
        for position, char in enumerate(self._held):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    text, self._held = self._held[: position + 1], self._held[position + 1 :]
                    self._state = "tail"
                    return Call(self.n_calls - 1, None, text)
        text, self._held = self._held, ""
        return Call(self.n_calls - 1, None, text) if text else None

    def _in_tail(self, final: bool) -> Part | None:
        assert self._syntax is not None
        more = self._syntax.tail + self._syntax.separator
        if self._held.startswith(more):
            self._held, self._state = self._held[len(more) :], "head"
        elif final or not more.startswith(self._held):
            self._held, self._state = "", "done"
        return None

    def _in_done(self, final: bool) -> Part | None:
        self._held = ""
        return None

    def _release(self, marks: Iterable[str], final: bool) -> str:
        """What is held but cannot become one of the marks."""
        keep = 0
        for mark in () if final else marks:
            for size in range(min(len(mark) - 1, len(self._held)), keep, -1):
                if self._held.endswith(mark[:size]):
                    keep = size
                    break
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return text


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole answer: words, thoughts, and calls as (name, arguments as JSON)."""

    words: str
    thoughts: str
    calls: tuple[tuple[str, str], ...]


def parse(parser: PartParser, text: str) -> Parsed:
    """Take a whole answer apart with a parser that is new."""
    words, thoughts = "", ""
    calls: list[tuple[str, str]] = []
    for part in [*parser.push(text), *parser.flush()]:
        if isinstance(part, Words):
            words += part.text
        elif isinstance(part, Thought):
            thoughts += part.text
        elif part.name is not None:
            calls.append((part.name, part.arguments))
        else:
            name, arguments = calls[-1]
            calls[-1] = (name, arguments + part.arguments)
    return Parsed(words.rstrip("\n") if calls else words, thoughts.strip("\n"), tuple(calls))
