"""Learns how a template writes tool calls: the texts between known names, keys and values."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgellm.chat.notation import NotationError, object_at, plain_form, read_value
from edgellm.chat.probing import IDS, NAMES, tool
from edgellm.chat.syntax import OWN_KEY, Arguments, Notation, Piece, Slot, Syntax, atoms, first_mark, merge
from edgellm.chat.turns import KEYS, NUMBER_TYPE, NUMBERS, TRICKY, WORDS, Turns, after_prompt


class Unlearned(Exception):
    """The template writes calls in no way that can be told apart."""


@dataclass
class _Cut:
    """The rendering of calls around their arguments."""

    before: list[Piece]
    between: list[Piece]
    after: list[Piece]


def _pieces(text: str) -> list[Piece]:
    """A text as atoms and slots."""
    slots = dict(zip(NAMES, [Slot.NAME] * 2, strict=True)) | dict(zip(IDS, [Slot.ID] * 2, strict=True))
    pieces: list[Piece] = []
    while text:
        found = min(((text.find(t), t) for t in slots if t in text), default=(len(text), ""))
        pieces += atoms(text[: found[0]])
        if found[1]:
            pieces.append(slots[found[1]])
        text = text[found[0] + len(found[1]) :]
    return pieces


def _same(first: Piece, second: Piece) -> Piece | None:
    """A piece of two calls, an index if it counts them; None if they differ."""
    if first == second:
        return first
    if isinstance(first, str) and isinstance(second, str) and first.isdigit() and second.isdigit():
        return Slot.INDEX if int(second) == int(first) + 1 and int(first) < 2 else None
    return None


def _common(first: Sequence[Piece], second: Sequence[Piece], *, end: bool = False) -> list[Piece]:
    """The pieces that two lists begin, or end, with."""
    found: list[Piece] = []
    pairs = zip(reversed(first), reversed(second), strict=False) if end else zip(first, second, strict=False)
    for one, other in pairs:
        piece = _same(one, other)
        if piece is None:
            break
        found.append(piece)
    return found[::-1] if end else found


def learn_calls(turns: Turns, syntax: Syntax) -> Syntax | None:
    first_arguments = dict(zip(KEYS[:2], NUMBERS[:2], strict=True))
    second = {KEYS[2]: NUMBERS[2]}
    one = turns.calls(first_arguments)
    if one is None or KEYS[0] not in one or "tool_calls'" in one or 'tool_calls"' in one:
        return None  # no calls, or the messages printed as they are
    two = turns.calls(first_arguments, second)
    if two is not None and (KEYS[2] not in two or two.find(NAMES[1]) < 0):
        two = None
    form, cut = _learn_object(turns, one, two, first_arguments, second) or _learn_pairs(turns, one, two)
    separator: list[Piece] = []
    if cut.between:
        closing = _common(cut.between, cut.after)
        inner = cut.between[len(closing) :]
        head = _common(cut.before, inner, end=True)
        separator = inner[: len(inner) - len(head)]
    else:
        closing, head = [], []
    tail = cut.after[len(closing) :]
    ending = _common(tail, _pieces(syntax.turn_end), end=True) if syntax.turn_end else []
    closed = tail[: len(tail) - len(ending)]
    if not cut.between:
        closing, closed = closed, []
    if not all(isinstance(p, str) for p in (*separator, *closed)):
        # Ids stand after all calls, or names of calls stand between them.
        raise Unlearned
    first, later, words_end, lead = _openings(
        turns, syntax, cut.before, _after_words(turns, first_arguments, form)
    )
    return replace(
        syntax,
        kind="learned",
        native=turns.probes.shows_tools,
        writes=True,
        first=_indexed(first, head),
        later=_indexed(later, head),
        lead=lead,
        head=merge(head) or _indexed(first, head),
        closing=merge(closing),
        separator=_text(separator),
        end=_text(closed),
        lone_end=_text(closed).strip() in one,
        arguments=form,
        several=bool(cut.between),
        words_end=words_end,
    )


def _indexed(opening: Sequence[Piece], head: Sequence[Piece]) -> tuple[Piece, ...]:
    """The opening of the first call, its number as an index where the head counts."""
    if Slot.INDEX not in head:
        return merge(opening)
    n = len(head) - head.index(Slot.INDEX)
    place = len(opening) - n
    return merge([*opening[:place], Slot.INDEX, *opening[place + 1 :]]) if place >= 0 else merge(opening)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _after_words(turns: Turns, arguments: dict[str, Any], form: Arguments) -> list[Piece] | None:
    """The pieces between words and the first argument of a call, if words may stand before one."""
    shown = turns.calls(arguments, content=WORDS)
    if shown is None or WORDS not in shown or shown.find(WORDS) > shown.find(KEYS[0]):
        return None
    after = shown.partition(WORDS)[2]
    span = _object_span(after, arguments) if form.kind == "object" else None
    return _pieces(after[: span[0]] if span is not None else after.partition(KEYS[0])[0])


def _openings(
    turns: Turns, syntax: Syntax, before: list[Piece], later: list[Piece] | None
) -> tuple[list[Piece], list[Piece], str, str]:
    """Pieces of a first call before its arguments, in an answer and after words; the mark that ends words.

    Last comes the text that stands before the first call.
    """
    lead, rest = _lead(before)
    whole = lead = after_prompt(lead, turns.tool_prompt)
    if syntax.thinks and syntax.think_end in lead:
        lead = lead[lead.rfind(syntax.think_end) + len(syntax.think_end) :]
    following, words_end = "", ""
    if later is not None:
        following = _lead(later)[0]
        shared = _text(_common(atoms(lead), atoms(following), end=True))
        lead = shared if shared.strip() else lead
        if syntax.header and first_mark(syntax.header) and syntax.header in following:
            # A message of its own: the words' message ends, and another begins.
            words_end = first_mark(following[: following.find(syntax.header)]) or syntax.header
            following = ""
        elif shared.strip():
            following = shared
    lead, following = lead.lstrip(), following.lstrip() or lead.lstrip()
    for n in range(len(lead), 0, -1):
        # The end of the prompt need not be written again.
        if turns.tool_prompt.rstrip().endswith(lead[:n].rstrip()) and first_mark(lead[:n]):
            lead = lead[n:].lstrip()
            break
    return [*atoms(lead), *rest], [*atoms(following), *rest], words_end, whole.removesuffix(lead)


def _lead(pieces: Sequence[Piece]) -> tuple[str, list[Piece]]:
    """The text before the first slot, and the pieces from it on."""
    at = next((i for i, piece in enumerate(pieces) if not isinstance(piece, str)), len(pieces))
    return _text(pieces[:at]), list(pieces[at:])


def _learn_object(
    turns: Turns, one: str, two: str | None, first: dict[str, int], second: dict[str, int]
) -> tuple[Arguments, _Cut] | None:
    """Arguments that are one value: where it stands and how it is written."""
    span = _object_span(one, first)
    if span is None:
        return None
    written = one[span[0] : span[1]]
    form = _object_form(turns, written, first)
    if form is None:
        return None
    if two is None:
        return form, _Cut(_pieces(one[: span[0]]), [], _pieces(one[span[1] :]))
    mine, theirs = _object_span(two, first), _object_span(two, second)
    if mine is None or theirs is None:
        return None
    return form, _Cut(_pieces(two[: mine[0]]), _pieces(two[mine[1] : theirs[0]]), _pieces(two[theirs[1] :]))


def _object_span(text: str, arguments: dict[str, Any]) -> tuple[int, int] | None:
    place = text.find(next(iter(arguments)))
    while place >= 0:
        place = text.rfind("{", 0, place)
        found = object_at(text, place) if place >= 0 else None
        if found is not None and found[0] == arguments:
            return place, found[1]
    return None


def _object_form(turns: Turns, written: str, arguments: dict[str, int]) -> Arguments | None:
    try:
        if json.loads(written) == arguments:
            return Arguments()
    except ValueError:
        pass
    if written.startswith("{'"):
        return plain_form("python")
    shown = turns.calls({KEYS[0]: "zqtext", KEYS[1]: NUMBERS[1]})
    if shown is None or "zqtext" not in shown:
        return None
    before, _, after = shown.partition("zqtext")
    quote = before[before.rfind(KEYS[0]) + len(KEYS[0]) + 1 :].strip()
    close = after[: after.find(KEYS[1])].rstrip().removesuffix(",")
    words = _constants(turns, quote, close)
    if not quote or not close or words is None:
        return None
    return Arguments(
        strings="own", values="own", quotes=(quote, close), words=words, ordered=not _sorts_keys(turns)
    )


def _constants(turns: Turns, quote: str, close: str) -> tuple[str, str, str] | None:
    found = []
    for value in (True, False, None):
        shown = turns.calls({KEYS[0]: value, KEYS[1]: NUMBERS[1]})
        if shown is None:
            return None
        span = shown[shown.find(KEYS[0]) + len(KEYS[0]) + 1 : shown.rfind(KEYS[1])]
        found.append(span.strip().rstrip(",").strip())
    return found[0], found[1], found[2]


def _sorts_keys(turns: Turns) -> bool:
    shown = turns.calls({KEYS[1]: NUMBERS[1], KEYS[0]: NUMBERS[0]})
    return shown is not None and shown.find(str(NUMBERS[0])) < shown.find(str(NUMBERS[1]))


def _learn_pairs(turns: Turns, one: str, two: str | None) -> tuple[Arguments, _Cut]:
    """Arguments that are written one by one."""
    a, b = (one.find(key) for key in KEYS[:2])
    x, y = (one.find(str(number)) for number in NUMBERS[:2])
    if not 0 <= a < x < b < y:
        raise Unlearned
    middle = one[a + len(KEYS[0]) : x]
    if middle != one[b + len(KEYS[1]) : y] or not middle:
        raise Unlearned
    before, between, after = one[:a], one[x + 5 : b], one[y + 5 :]
    tail = _text(
        _common(*(atoms(t.replace(k, OWN_KEY)) for t, k in zip((between, after), KEYS, strict=False)))
    )
    n_tail = len(tail.replace(OWN_KEY, KEYS[0]))
    rest = between[n_tail:]
    head = _text(_common(_pieces(before), atoms(rest), end=True))
    separator = rest[: len(rest) - len(head)]
    opening = _pieces(before[: len(before) - len(head)])
    last = max((i for i, piece in enumerate(opening) if not isinstance(piece, str)), default=-1)
    open_text = _text(opening[last + 1 :])
    form = Arguments(
        kind="pairs", open=open_text, head=head, middle=middle, tail=tail, separator=separator, close=""
    )
    form = _learn_values(turns, form)
    called = opening[: last + 1]
    after_pieces = _pieces(after[n_tail:])
    if two is None:
        return _closed(form, after_pieces), _Cut(called, [], after_pieces)
    start = two.find(str(NUMBERS[1])) + 5 + n_tail
    c, z = two.find(KEYS[2]), two.find(str(NUMBERS[2]))
    inner = two[start : c - len(head)] if two[:c].endswith(head) else two[start:c]
    if not inner.endswith(open_text):
        raise Unlearned
    inner = inner[: len(inner) - len(open_text)]
    cut = _Cut(called, _pieces(inner), _pieces(two[z + 5 + n_tail :]))
    return _closed(form, _common(cut.between, cut.after)), cut


def _closed(form: Arguments, closing: Sequence[Piece]) -> Arguments:
    """The form with the text after the last argument, which ends the arguments: one atom is enough."""
    return replace(form, close="") if closing else form


def _learn_values(turns: Turns, form: Arguments) -> Arguments:
    """The notations of strings, constants, lists and objects among pairs."""
    follow = form.separator + form.head

    def shown(value: Any) -> str | None:
        text = turns.calls({KEYS[0]: value, KEYS[1]: NUMBERS[1]}, tools=_typed(value))
        if text is None or KEYS[0] not in text:
            return None
        text = text[text.find(KEYS[0]) + len(KEYS[0]) :]
        end = text.find(KEYS[1])
        found = end >= 0 and text[:end].endswith(follow)
        return text[: end - len(follow)].replace(KEYS[0], OWN_KEY) if found else None

    text = shown("zqtext")
    if text is None or "zqtext" not in text:
        raise Unlearned
    text_middle, _, text_tail = text.partition("zqtext")
    form = replace(form, text_middle=text_middle, text_tail=text_tail)
    quoted = text_middle.endswith(("'", '"')) and text_tail.startswith(text_middle[-1])
    strings = _string_notation(shown(TRICKY), form) if quoted or text_middle != form.middle else "raw"
    if strings == "raw" and quoted and not form.tail:
        # Quotes without escapes can hold no quote; models escape it as their language does.
        strings = "python" if text_middle.endswith("'") else "json"
    if strings == "raw":
        form = replace(form, wrap=_wrap(shown(TRICKY), form))
    words: list[str] = []
    for value, usual in ((True, "true"), (False, "false"), (None, "null")):
        written = shown(value)
        if written is not None and written.startswith(form.middle) and written.endswith(form.tail):
            words.append(written[len(form.middle) : len(written) - len(form.tail)].strip() or usual)
        else:
            words.append(usual)
    values, quotes = "json", ('"', '"')
    nested = {"zqin": ["zqtext", 7]}
    written = shown(nested)
    if written is not None:
        inner = written.removeprefix(form.middle).removesuffix(form.tail)
        try:
            values = "json" if json.loads(inner) == nested else "python"
        except ValueError:
            with_quotes = inner.partition("zqtext")
            values = "python"
            try:
                if read_value(inner) != nested:
                    values = "own"
            except NotationError:
                values = "own"
            if values == "own":
                quotes = (_own_quote(with_quotes[0]), _own_quote(with_quotes[2], after=True))
    return replace(
        form,
        strings=strings,  # type: ignore[arg-type]
        values=values,  # type: ignore[arg-type]
        lists=_list_notation(shown, form) if values == "json" else None,
        quotes=quotes,
        words=(words[0], words[1], words[2]),
        ordered=not _sorts_keys(turns),
    )


def _list_notation(shown: Callable[[Any], str | None], form: Arguments) -> Notation | None:
    """The notation of lists where objects are JSON; None if it is JSON, too."""
    value = [{"zqin": "zqtext"}, True]
    written = shown(value)
    inner = "" if written is None else written.removeprefix(form.middle).removesuffix(form.tail)
    with contextlib.suppress(ValueError):
        if json.loads(inner) == value:
            return None
    with contextlib.suppress(NotationError):
        if read_value(inner) == value:
            return "python"
    return None


def _wrap(text: str | None, form: Arguments) -> tuple[str, str]:
    """Marks that the template puts around a raw string with signs of markup in it."""
    if text is None or TRICKY not in text:
        return "", ""
    inner = text.removeprefix(form.text_middle).removesuffix(form.text_tail)
    begin, _, end = inner.partition(TRICKY)
    return (begin, end) if begin.strip() and end.strip() else ("", "")


def _own_quote(text: str, *, after: bool = False) -> str:
    """The marks around a string that is in a list."""
    return text.partition(",")[0].strip() if after else text.rpartition("[")[2].strip()


def _typed(value: Any) -> list[dict[str, Any]]:
    """The tools, the first key of the type of `value`."""
    names = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object"}
    kind = {"type": names.get(type(value), "integer")}
    return [
        tool(0, {KEYS[0]: kind, KEYS[1]: NUMBER_TYPE, KEYS[2]: NUMBER_TYPE}),
        tool(1, {KEYS[2]: NUMBER_TYPE}),
    ]


def _string_notation(text: str | None, form: Arguments) -> str:
    if text is None:
        return "json"
    if text == form.text_middle + TRICKY + form.text_tail:
        return "raw"
    whole = text.removeprefix(form.middle).removesuffix(form.tail)
    if whole == repr(TRICKY):
        return "python"
    return "json"
