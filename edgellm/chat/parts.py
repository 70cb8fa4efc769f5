"""Takes an answer apart as it comes: thoughts, words, and calls of tools, as its syntax writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edgellm.chat import key_order, known
from edgellm.chat.reading import ArgumentReader, Bad, object_reader
from edgellm.chat.syntax import Piece, Slot, Syntax, end_mark, first_mark, match, merge, without_marks


@dataclass(frozen=True, slots=True)
class Words:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself, between the marks of thoughts."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """The beginning of a call, or more of its arguments' JSON: name is None after the first part."""

    index: int
    name: str | None
    arguments: str


Part: TypeAlias = Words | Thought | Call
_State: TypeAlias = Literal[
    "begin", "thought", "words", "head", "arguments", "between", "queued", "after", "ended", "done"
]

_NAME = re.compile(r"\s*([\w.-]+)")
_LONG_NAME = re.compile(r"\s*([\w.:/-]+)")
_ID = re.compile(r"\s*([\w:.-]*)")
# Answers of a model whose template is not known: usual marks, and gpt-oss's without its control tokens.
_USUAL_THOUGHTS = (*known.THOUGHTS, ("analysis", "assistantfinal"))


class PartParser:
    """Pushes pieces of text in, gets parts out; never lets a piece of a mark through as words.

    syntax: how calls of the tools `names` are written; no names: no calls are looked for, unless `any_name`.
    thinks: the model may think. thinking: the prompt has begun its thoughts. schemas: of the arguments, by
    name; they tell texts from numbers where a syntax writes both alike.
    """

    def __init__(
        self,
        syntax: Syntax | None = None,
        names: Sequence[str] = (),
        *,
        thinks: bool = False,
        thinking: bool = False,
        any_name: bool = False,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._syntax = syntax
        self._names = frozenset(names)
        self._any_name = any_name
        self._name_form = _LONG_NAME if any(":" in name or "/" in name for name in names) else _NAME
        self._schemas = schemas or {}
        if syntax is not None and syntax.thinks:
            self._thoughts: Sequence[tuple[str, str]] = ((syntax.think_begin, syntax.think_end),)
        else:
            self._thoughts = known.THOUGHTS[:1] if syntax is not None else _USUAL_THOUGHTS
        self._think_end = self._thoughts[0][1]
        self._thinks = thinks or thinking
        self._state: _State = "thought" if thinking else "begin"
        self._held = ""
        self._pieces: tuple[Piece, ...] = ()
        self._taken = ""
        self._thought = False
        self._back: _State = "words"
        self._name = ""
        self._reader: ArgumentReader | None = None
        self._late = ""
        self._queue: list[Call] = []
        self.n_calls = 0
        self._openings: list[tuple[Piece, ...]] = []
        self._triggers: list[str] = []
        self._end_marks: list[str] = []
        if syntax is not None:
            self._end_marks = list(filter(None, (end_mark(syntax.turn_end), syntax.words_end)))
            if names or any_name:
                self._prepare(syntax)

    def _prepare(self, syntax: Syntax) -> None:
        self._openings = list(dict.fromkeys((syntax.first, syntax.later)))
        self._triggers = list(dict.fromkeys(filter(None, map(trigger_of, self._openings))))
        follow = "".join(map(str, syntax.later[2:3])) or syntax.arguments.open.strip()
        if not self._triggers and syntax.later[1:2] == (Slot.NAME,) and follow[:1] in ("(", ">"):
            # No mark begins a call, but its name between brackets does.
            lead = str(syntax.later[0]).lstrip()
            self._triggers = [lead + name + follow[0] for name in sorted(self._names) if lead]

    def push(self, text: str) -> list[Part]:
        """More of the answer."""
        self._held += text
        return self._run(final=False)

    def flush(self) -> list[Part]:
        """The text that was held back, once the answer has ended."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        while True:
            before = (self._state, len(self._held), self._pieces)
            part = getattr(self, "_in_" + self._state)(final)
            if part is not None:
                parts.append(part)
            elif before == (self._state, len(self._held), self._pieces):
                return parts

    # Words and thoughts.

    def _in_begin(self, final: bool) -> Part | None:
        """Nothing has come yet that tells what this is."""
        syntax = self._syntax
        begun = self._held.lstrip()
        if not begun:
            if final:
                self._state = "words"
            return None
        waits = False
        if self._thinks:
            for begin, end in self._thoughts:
                at = match(begin.strip(), begun) if begin.strip() else None
                if at is not None and at >= 0:
                    self._held, self._state, self._think_end = begun[at:], "thought", end
                    return None
                waits = waits or at == -1
        if syntax is not None:
            for literal in (syntax.header if first_mark(syntax.header) else "", syntax.words_begin):
                at = match(literal, begun) if literal else None
                if at is not None and at >= 0:
                    self._held = begun[at:]
                    if literal == syntax.words_begin:
                        self._state = "words"
                    return None
                waits = waits or at == -1
        for opening in self._openings:
            found = self._opens(opening, begun)
            if found:
                self._held, self._back, self._state = begun, "words", "head"
                self._pieces, self._taken, self._name = opening, "", ""
                return None
            waits = waits or found is None
        if final or not waits:
            self._state = "words"
            if self._thought:
                self._held = self._held.lstrip("\n")
        return None

    def _opens(self, opening: tuple[Piece, ...], text: str) -> bool | None:
        """True if a call begins here; None if more text may tell."""
        place = 0
        for piece in opening:
            if isinstance(piece, str):
                at = match(piece, text, place)
                if at is None:
                    return False
                if at == -1:
                    return None
                place = at
                if first_mark(piece) or piece.rstrip().endswith(('"name": "', '"name":"')):
                    return True
            else:
                found = (self._name_form if piece is Slot.NAME else _ID).match(text, place)
                if found is None:
                    return None if not text[place:].strip() else False
                if found.end() == len(text):
                    if piece is not Slot.NAME:
                        return None
                    ahead = any(name.startswith(found[1]) for name in self._names)
                    return None if ahead or self._any_name else False
                if piece is Slot.NAME and not self._any_name and found[1] not in self._names:
                    return False
                place = found.end()
        if self._any_name and self._syntax is not None and self._syntax.arguments.kind == "object":
            rest = text[place:].lstrip()
            return None if not rest else rest.startswith("{")
        return True

    def _in_thought(self, final: bool) -> Part | None:
        end = self._think_end
        marks = [end, *filter(first_mark, self._triggers)]
        found = min(((at, m) for m in marks if (at := self._held.find(m)) >= 0), default=None)
        if found is None:
            text = self._release(marks, final)
        elif found[1] == end:
            text, self._held = self._held[: found[0]], self._held[found[0] + len(end) :]
            self._state, self._thought = "begin", True
        else:  # a call within thoughts ends them
            text, self._held = self._held[: found[0]], self._held[found[0] :]
            self._begin_call()
        return Thought(text) if text else None

    def _in_words(self, final: bool) -> Part | None:
        marks = [*self._triggers, *self._end_marks]
        found = min(((at, m) for m in marks if (at := self._held.find(m)) >= 0), default=None)
        if found is None:
            text = self._release(marks, final)
            return Words(text) if text else None
        at, mark = found
        text, self._held = self._held[:at], self._held[at:]
        if mark in self._triggers:
            self._begin_call()
        else:
            own = mark == (self._syntax.header if self._syntax is not None else "")
            self._held, self._state = self._held if own else self._held[len(mark) :], "ended"
        return Words(text) if text else None

    def _begin_call(self) -> None:
        """The text that is held opens a call, as it seems."""
        self._back = self._state
        self._state, self._taken, self._name = "head", "", ""
        self._pieces = next(filter(self._starts_with, reversed(self._openings)), self._openings[0])

    def _starts_with(self, opening: tuple[Piece, ...]) -> bool:
        first = opening[0] if opening else ""
        return isinstance(first, str) and match(first, self._held) is not None

    def _in_ended(self, final: bool) -> Part | None:
        """A turn's end: another message of the model, or nothing more that is for anyone."""
        syntax = self._syntax
        assert syntax is not None
        at = match(syntax.header, self._held) if first_mark(syntax.header) else None
        if at is not None and at >= 0:
            self._held, self._state = self._held[at:], "begin"
            return None
        begun = self._held.lstrip()
        opened = [self._opens(opening, begun) for opening in self._openings] if begun else [None]
        if True in opened:  # a call after the mark that ends words
            self._held = begun
            self._begin_call()
        elif final or (at is None and None not in opened):
            self._state = "done"
        return None

    # Calls.

    def _in_head(self, final: bool) -> Part | None:
        while self._pieces:
            piece = self._pieces[0]
            if isinstance(piece, str):
                at = match(piece, self._held)
            else:
                found = (self._name_form if piece is Slot.NAME else _ID).match(self._held)
                at = None if found is None else -1 if found.end() == len(self._held) else found.end()
                if not self._held.strip():
                    at = -1
                if piece is Slot.NAME and found is not None and at is not None and at > 0:
                    self._name = found[1]
            if at == -1 and not final:
                return None
            if at is None or at == -1:
                return self._other_order(final)
            self._taken += self._held[:at]
            self._held, self._pieces = self._held[at:], self._pieces[1:]
        assert self._syntax is not None
        self._state = "arguments"
        self._reader = self._new_reader(self._syntax)
        if not self._name:  # it stands after the arguments
            self._late = ""
            return None
        self.n_calls += 1
        return Call(self.n_calls - 1, self._name, "")

    def _new_reader(self, syntax: Syntax) -> ArgumentReader:
        form = syntax.arguments
        if form.kind == "object":
            return object_reader(form)
        first = next(iter(merge((*syntax.closing, syntax.end))), "")
        after = next(iter(merge((*syntax.closing, syntax.separator))), "")
        ends = [text for text in dict.fromkeys((first, after)) if isinstance(text, str) and text]
        return ArgumentReader(form, ends, self._schemas.get(self._name))

    def _other_order(self, final: bool) -> Part | None:
        """Calls whose keys stand in an order of the model's own, or words."""
        assert self._syntax is not None
        names = None if self._any_name else self._names
        read = key_order.read_calls(self._syntax, self._taken + self._held, names, final)
        if read is None:
            return None
        calls, rest = read
        if not calls:
            return self._no_call()
        self._queue = [Call(self.n_calls + i, name, text) for i, (name, text) in enumerate(calls)]
        self.n_calls += len(calls)
        self._held, self._pieces, self._name, self._state = rest, (), "", "queued"
        return None

    def _in_queued(self, final: bool) -> Part | None:
        """Calls that were read at once."""
        if self._queue:
            return self._queue.pop(0)
        self._state = "after"
        return None

    def _no_call(self) -> Part | None:
        """The text is none of a call: words, if nothing of the call has been said."""
        text, self._name, self._pieces = self._taken + self._held, "", ()
        self._taken = ""
        if self.n_calls:
            self._held, self._state = text[1:], "done"
            return None
        ended = next((mark for mark in self._end_marks if text.startswith(mark)), "")
        if ended and self._back == "words":
            self._held, self._state = text[len(ended) :], "ended"
            return None
        self._held, self._state = text[1:], self._back
        if not text:
            return None
        return Thought(text[:1]) if self._back == "thought" else Words(text[:1])

    def _in_arguments(self, final: bool) -> Part | None:
        assert self._reader is not None
        assert self._syntax is not None
        try:
            text, used, ended = self._reader.read(self._held, final)
        except Bad:
            self._held, self._state = "", "done"
            return None
        self._held = self._held[used:]
        if ended:
            self._state, self._pieces = "between", self._syntax.closing
        if not self._name:
            self._late += text
            return None
        return Call(self.n_calls - 1, None, text) if text else None

    def _in_between(self, final: bool) -> Part | None:
        """After a call's arguments: the rest of the call, another call, or the end."""
        syntax = self._syntax
        assert syntax is not None
        while self._pieces:
            piece = self._pieces[0]
            if isinstance(piece, str):
                at = match(piece, self._held)
            else:
                found = (self._name_form if piece is Slot.NAME else _ID).match(self._held)
                at = -1 if found is None or found.end() == len(self._held) else found.end()
                if piece is Slot.NAME and found is not None and at > 0 and not self._name:
                    return self._named(found[1], at)
            if at == -1 and not final:
                return None
            if at is None or at == -1:
                break
            self._held, self._pieces = self._held[at:], self._pieces[1:]
        self._pieces = ()
        following = merge((syntax.separator, *syntax.head))
        opened: bool | None = False
        if syntax.several and self._held.strip():
            opened = self._opens(merge((*following, syntax.arguments.open)), self._held)
        elif syntax.several and not final:
            return None
        if opened is None and not final:
            return None
        if opened:
            self._name, self._pieces, self._taken, self._state = "", following, "", "head"
            return None
        end = match(syntax.end, self._held)
        if end == -1 and not final:
            return None
        self._name = ""
        self._held, self._state = self._held[max(0, end or 0) :], "done" if end is None else "after"
        return None

    def _named(self, name: str, at: int) -> Part:
        """A call whose name stands after its arguments."""
        self._held, self._pieces = self._held[at:], self._pieces[1:]
        self._name = name
        self.n_calls += 1
        return Call(self.n_calls - 1, name, self._late)

    def _in_after(self, final: bool) -> Part | None:
        """Text after calls is held until another call or the end; the end of the turn is no words."""
        found = min((at for mark in self._triggers if (at := self._held.find(mark)) >= 0), default=-1)
        if found < 0 and not final:
            return None
        text, self._held = (self._held, "") if found < 0 else (self._held[:found], self._held[found:])
        self._state = "done"
        if found >= 0:
            self._begin_call()
            self._back = "after"
        ends = [at for mark in self._end_marks if (at := text.find(mark)) >= 0]
        words = text[: min(ends, default=len(text))].strip()
        turn_end = self._syntax.turn_end if self._syntax is not None else ""
        return Words(words) if re.search(r"\w", without_marks(words)) and words not in turn_end else None

    def _in_done(self, final: bool) -> Part | None:
        """Text after a call that is none in the end is not shown; more calls are read."""
        marks = [mark for mark in self._triggers if first_mark(mark)]
        found = min((at for mark in marks if (at := self._held.find(mark)) >= 0), default=-1)
        if found < 0 or self.n_calls == 0:
            self._release(marks, final)
            return None
        self._held = self._held[found:]
        self._begin_call()
        return None

    def _release(self, marks: Iterable[str], final: bool) -> str:
        """The text that is held but cannot become one of the marks."""
        keep = 0
        for mark in () if final else marks:
            for size in range(min(len(mark) - 1, len(self._held)), keep, -1):
                if self._held.endswith(mark[:size]):
                    keep = size
                    break
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return text


def trigger_of(opening: tuple[Piece, ...]) -> str:
    """The text among words that begins a call; empty if only the answer's first words can."""
    first = opening[0] if opening and isinstance(opening[0], str) else ""
    mark = first_mark(first)
    if mark:
        # A text before a mark belongs to it, such as a recipient.
        lead = first[: first.find(mark)].lstrip()
        return lead + mark
    begin = first.strip()
    return begin if len(begin) > 2 and not begin.startswith(("{", "[{")) else ""


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
