"""Methods of strings for the sandbox: each is charged its worst case, and reads past the marks.

A mark stands for one character (`marking`), so positions and pieces found in the plain text are those of
the marked one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Any

from edgellm.chat.budget import Budget, LimitError
from edgellm.chat.jinja import SandboxedFormatter
from edgellm.chat.marking import Marks

WIDEST = 200
"""Widest padding, indentation or field, in characters."""


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


_LOOKS = words(
    "count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
    "isprintable isspace istitle isupper rfind rindex startswith"
)
_CUTS = words("lstrip partition removeprefix removesuffix rpartition rsplit rstrip split splitlines strip")
_PADS = words("center ljust rjust zfill")
_CASES = words("capitalize casefold lower swapcase title upper")
METHODS = _LOOKS | _CUTS | _PADS | _CASES | words("format join replace")
_BACKWARDS = words("rfind rindex rpartition rsplit")
# Characters of text that one step pays for, as a power of two; 7 where it is not named.
_SHIFTS = {"title": 4, "split": 5, "rsplit": 5, "splitlines": 5, "swapcase": 6, "capitalize": 6}
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")


def call_method(budget: Budget, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of `text.name(*args, **kwargs)`; the caller has charged for the arguments."""
    size = len(text)
    budget.charge(1 + (size >> _SHIFTS.get(name, 7)))
    if name in _PADS:
        if not args or not narrow(args[0]):
            raise LimitError(f"The chat template pads a text by more than {WIDEST} characters")
        return getattr(text, name)(*args, **kwargs)
    if name in _CASES:
        return getattr(text, name)(*args, **kwargs)
    if name == "replace":
        return replace(budget, text, *args, **kwargs)
    needle = next((len(arg) for arg in args if isinstance(arg, str)), 0)
    if name in _BACKWARDS or name.endswith("strip"):
        # CPython searches backwards, and through a set to strip, in time of the product.
        budget.charge((size * needle) >> 9)
    marks = budget.marks
    plain = marks.plain(text)
    result = getattr(plain, name)(*marks.plain_all(args), **marks.plain_all(kwargs))
    if isinstance(result, list):
        budget.charge(len(result) >> 2)
    if name in _LOOKS or plain == text:
        return result
    separated = needle if name in ("split", "rsplit") else 0
    return _marked(text, plain, name, result, separated)


def _marked(text: str, plain: str, name: str, result: Any, separated: int) -> Any:
    """Pieces of the plain text, `separated` by so many characters, as the pieces of the marked one."""
    if isinstance(result, str):
        if name in ("lstrip", "removeprefix"):
            return text[len(text) - len(result) :]
        if name == "strip":
            start = len(plain) - len(plain.lstrip()) if plain.strip() == result else plain.find(result)
            return text[start : start + len(result)]
        return text[: len(result)]
    pieces: list[str] = []
    start = 0
    for piece in result:
        if not separated:  # by white space, of which no piece begins with any
            start = plain.index(piece, start)
        pieces.append(text[start : start + len(piece)])
        start += len(piece) + separated
    return tuple(pieces) if isinstance(result, tuple) else pieces


def contains(budget: Budget, text: str, part: str) -> bool:
    """True if `part` occurs in `text`."""
    budget.charge(1 + (len(text) >> 7))
    return budget.marks.plain(part) in budget.marks.plain(text)


def replace(budget: Budget, text: str, old: str, new: str, count: int | None = None) -> str:
    """`text.replace`."""
    budget.charge(1 + (len(text) >> 6))
    limit = -1 if count is None else count
    marks = budget.marks
    plain, old = marks.plain(text), marks.plain(old)
    found = plain.count(old) if limit < 0 else min(plain.count(old), limit)
    budget.check_text(len(text) + found * max(len(new) - len(old), 0))
    budget.charge(found >> 4)
    if plain == text or not old:
        return text.replace(old, new, limit)
    pieces = []
    start = 0
    for place in _places(plain, old, found):
        pieces += [text[start:place], new]
        start = place + len(old)
    return "".join([*pieces, text[start:]])


def _places(text: str, part: str, count: int) -> Iterator[int]:
    place = 0
    for _ in range(count):
        place = text.index(part, place)
        yield place
        place += len(part)


def percent(budget: Budget, template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """`template % args`, widths bounded."""
    if not isinstance(template, str) or (args and kwargs):
        raise TypeError("format needs a text and either positional or named values")
    budget.charge(1 + (len(template) >> 5))
    fields = _PERCENT.findall(template)
    if any(size == "*" or (size and int(size[:9]) > WIDEST) for field in fields for size in field):
        raise LimitError(f"The chat template formats with a width above {WIDEST}")
    _check_fields(budget, template, len(fields), (args, kwargs))
    values = args[0] if len(args) == 1 and isinstance(args[0], dict) else kwargs or args
    return budget.marks.unescape(template % values)


def format_text(
    budget: Budget,
    formatter: SandboxedFormatter,
    template: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    """`template.format(*args, **kwargs)`, widths bounded."""
    budget.charge(1 + (len(template) >> 5))
    fields = list(string.Formatter().parse(template))
    budget.charge(len(fields))
    for _, _, spec, _ in fields:
        if spec and ("{" in spec or any(int(digits[:9]) > WIDEST for digits in re.findall(r"\d+", spec))):
            raise LimitError(f"The chat template formats with a width above {WIDEST}")
    _check_fields(budget, template, len(fields), (args, kwargs))
    return budget.marks.unescape(formatter.vformat(template, args, kwargs))


def _check_fields(budget: Budget, template: str, n_fields: int, values: object) -> None:
    size = budget.weigh(values, plain=True)
    budget.charge(n_fields * 4)
    budget.check_text(len(template) + n_fields * (size + 2 * WIDEST))


def narrow(width: object) -> bool:
    """True for a width within the limit."""
    return isinstance(width, int) and width <= WIDEST


class SafeText(str):
    """A text that a template calls safe: others that are added to it are escaped."""

    __slots__ = ()


def escape(budget: Budget, text: str) -> str:
    """The text with HTML's special characters escaped, unless it is safe."""
    if isinstance(text, SafeText):
        return text
    budget.charge(1 + (len(text) >> 6))
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;")):
        text = replace(budget, text, plain, escaped)
    return text


def printed(marks: Marks, value: Any) -> str:
    """`str(value)`, marks as they are."""
    return marks.unescape(str(value))
