"""Syntax of an answer: the marks of thoughts, words and tool calls, and how arguments are written.

One structure drives the parser (`parts`), the grammar (`call_grammar`) and the writing of calls.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

BOS, EOS = "<BOS>", "<EOS>"
"""Texts of the first and last token where no vocabulary is given."""


class Slot(enum.Enum):
    """A part of a call that differs from call to call."""

    NAME = "name"
    ID = "id"
    INDEX = "index"
    ARGUMENTS = "arguments"


OWN_KEY = "\x00"
Piece: TypeAlias = str | Slot
Notation: TypeAlias = Literal["raw", "json", "python", "own"]

# Atoms of a text: tags, marks in brackets, fences, words, single characters.
_ATOMS = re.compile(r"<[^<>\s][^<>]*>|<[^<>\s][^<>]*$|\[/?[A-Z_]+\]|```\w*|\d+|[^\W\d]+|.", re.DOTALL)
_MARK = re.compile(r"<[^<>\s][^<>]*>|\[/?[A-Z][A-Z_]+\]|```\w*|<[^<>\s]{2,}[^<>]*$")


def atoms(text: str) -> list[str]:
    """A text cut where marks, words and signs meet."""
    return _ATOMS.findall(text)


def first_mark(text: str) -> str:
    """The first mark of a text, such as a tag; empty if it has none."""
    found = _MARK.search(text)
    return found[0] if found else ""


def without_marks(text: str) -> str:
    """A text without its marks."""
    return _MARK.sub("", text)


def end_mark(text: str) -> str:
    """The mark that ends a turn, of the text after its words; empty if it is nothing but words or spaces."""
    whole = text.strip()
    return first_mark(text) or (whole if len(whole) > 2 and re.search(r"[<\[{|~#^]", whole) else "")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Notation of a call's arguments.

    object: one value in `notation`. pairs: open, then head KEY middle VALUE tail for each, `separator`
    between them, close; a string has `text_middle` and `text_tail` around it where these differ. OWN_KEY in a
    tail stands for the key, where a tag of its own name ends an argument.
    strings, values: notations of strings and of lists and objects. quotes: around strings in notation own.
    lists: of lists, where it is not that of objects. words: true, false and null. wrap: marks around
    raw strings that hold signs of markup. ordered: False if keys are sorted.
    """

    kind: Literal["object", "pairs"] = "object"
    strings: Notation = "json"
    values: Notation = "json"
    lists: Notation | None = None
    words: tuple[str, str, str] = ("true", "false", "null")
    quotes: tuple[str, str] = ('"', '"')
    wrap: tuple[str, str] = ("", "")
    open: str = ""
    head: str = ""
    middle: str = ""
    text_middle: str = ""
    tail: str = ""
    text_tail: str = ""
    separator: str = ""
    close: str = ""
    ordered: bool = True

    def tail_of(self, key: str, *, text: bool) -> str:
        """The text after an argument, a string or another value."""
        return (self.text_tail if text else self.tail).replace(OWN_KEY, key)

    def texts(self) -> Iterator[str]:
        """All literal texts."""
        yield from (self.open, self.head, self.middle, self.text_middle, self.tail, self.text_tail)
        yield from (
            self.separator,
            self.close,
            *(self.quotes if "own" in (self.strings, self.values) else ()),
        )


_HEAD: tuple[Piece, ...] = ('{"name": "', Slot.NAME, '", "arguments": ')
_FIRST: tuple[Piece, ...] = ('<tool_call>\n{"name": "', Slot.NAME, '", "arguments": ')


@dataclass(frozen=True, slots=True)
class Syntax:
    """Notation of an answer: thoughts, words, calls, the end of the turn.

    Calls are CALL (separator CALL)* end, a call head ARGUMENTS closing; the first call of an answer begins
    with `first` instead of `head`, and with `later` after words. lead: the text that the template writes
    before the first call where there are no words. lone_end: False if `end` only follows several calls.
    native: the template itself shows the tools; writes: it shows earlier calls. header: the text that opens a
    turn of the assistant. words_end: the mark between words and a call. prompt_end: the end of a prompt, by
    default. think_open: that end is inside a thought.
    """

    kind: str = "generic"
    native: bool = False
    writes: bool = False
    first: tuple[Piece, ...] = _FIRST
    later: tuple[Piece, ...] = _FIRST
    lead: str = ""
    head: tuple[Piece, ...] = _HEAD
    closing: tuple[Piece, ...] = ("}",)
    separator: str = "\n</tool_call>\n<tool_call>\n"
    end: str = "\n</tool_call>"
    lone_end: bool = True
    arguments: Arguments = Arguments()
    several: bool = True
    think_begin: str = ""
    think_end: str = ""
    think_close: str = ""
    words_begin: str = ""
    words_end: str = ""
    turn_end: str = ""
    header: str = ""
    prompt_end: str = ""
    think_open: bool = False

    @property
    def thinks(self) -> bool:
        """True if the marks of thoughts are known."""
        return bool(self.think_end)

    @property
    def limits_thoughts(self) -> bool:
        """True if a thought can be ended for the model: how it begins and ends is known."""
        return bool(self.think_begin.strip() and self.think_close.strip())

    def texts(self) -> Iterator[str]:
        """All literal texts that an answer may hold."""
        yield from (self.separator, self.end, self.think_begin, self.think_end, self.think_close)
        yield from (self.words_begin, self.header, self.words_end, self.lead)
        for pieces in (self.first, self.later, self.head, self.closing):
            yield from (piece for piece in pieces if isinstance(piece, str))
        yield from self.arguments.texts()

    def controls(self, control_texts: Iterable[str]) -> list[str]:
        """Those texts of control tokens that the syntax writes."""
        joined = "\x00".join(self.texts())
        return sorted({text for text in control_texts if text and text in joined}, key=len, reverse=True)

    def ending_at(self, end_texts: Iterable[str]) -> Syntax:
        """The syntax whose calls end before a token that ends the answer."""
        cuts = [self.end.find(text) for text in end_texts if text and text in self.end]
        return replace(self, end=self.end[: min(cuts)]) if cuts else self

    def write(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls, (name, arguments as JSON), as a model would write them."""
        written = [self._write(i, name, text) for i, (name, text) in enumerate(calls)]
        return self.separator.join(written) + self.end

    def _write(self, index: int, name: str, text: str) -> str:
        from edgellm.chat.notation import write_arguments

        try:
            given = json.loads(text)
        except ValueError:
            given = None
        # Earlier arguments of a client may be no object; they are shown as they are.
        written = write_arguments(self.arguments, given) if isinstance(given, dict) else text
        values = {
            Slot.NAME: name,
            Slot.ID: "callid000",
            Slot.INDEX: str(index),
            Slot.ARGUMENTS: written,
        }
        pieces = (*(self.head if index else self.first), Slot.ARGUMENTS, *self.closing)
        return "".join(piece if isinstance(piece, str) else values[piece] for piece in pieces)


def merge(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Pieces with neighbouring texts joined and empty ones left out."""
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return tuple(merged)


def match(literal: str, text: str, start: int = 0) -> int | None:
    """Position after `literal` in `text` from `start`; None if it is not there; -1 if the text is too short.

    White space is free where the literal has any, at its start, and beside JSON's signs.
    """
    place = start
    free = True
    for sign in literal:
        if sign.isspace():
            free = True
            continue
        free = free or sign in "{}[],:"
        while free and place < len(text) and text[place].isspace():
            place += 1
        if place >= len(text):
            return -1
        if text[place] != sign:
            return None
        place += 1
        free = sign in "{}[],:"
    return place


GENERIC = Syntax()
