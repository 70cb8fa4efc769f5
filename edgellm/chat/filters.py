"""Jinja's filters and functions for the sandbox: each is charged its worst case before it runs."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from edgellm.chat import texts
from edgellm.chat.budget import LimitError
from edgellm.chat.jinja import Cycler, Joiner, Undefined
from edgellm.chat.loops import Space
from edgellm.chat.texts import WIDEST, SafeText, narrow
from edgellm.errors import TemplateError

if TYPE_CHECKING:
    from edgellm.chat.sandbox import TemplateSandbox

TEXT_COSTS = {
    # Filters over one text: how many characters one step pays for, as a power of two.
    "capitalize": 6,
    "filesizeformat": 6,
    "lower": 7,
    "striptags": 3,
    "title": 1,
    "truncate": 7,
    "upper": 7,
    "urlencode": 3,
    "wordcount": 3,
}
SHALLOW = ("count", "d", "default", "first", "items", "last", "length")
"""Filters that take the same time whatever they are given."""
COPIES = ("list", "reverse")
"""Filters that copy the outermost list."""
PER_ITEM = ("groupby", "map", "max", "min", "reject", "rejectattr", "select", "selectattr")
"""Filters that look an attribute up, or run a filter or test, for each item."""
NUMBERS = ("abs", "float", "int")
_JSON_ASCII = re.compile(r"[^\x00-\x7f]")


class Filters:
    """The filters and functions of one environment; `filters` and `functions` are its tables."""

    def __init__(self, environment: TemplateSandbox, stock: dict[str, Any]) -> None:
        self._env = environment
        self._stock = stock
        self.filters: dict[str, Callable[..., Any]] = {}
        for name, shift in TEXT_COSTS.items():
            self.filters[name] = self._over_text(name, stock[name], shift)
        for name in SHALLOW:
            self.filters[name] = self._charged(stock[name])
        for name in COPIES:
            self.filters[name] = self._charged(stock[name], copies=True)
        for name in PER_ITEM:
            self.filters[name] = self._per_item(name, stock[name])
        for name in NUMBERS:
            self.filters[name] = self._number(stock[name])
        own = (
            "attr batch center dictsort escape forceescape format indent join pprint random replace round "
            "safe slice sort string sum tojson trim unique wordwrap xmlattr"
        )
        for name in own.split():
            self.filters[name] = getattr(self, "_" + name)
        self.filters["e"] = self._escape
        for name in ("attr", "random"):
            self.filters[name] = functools.wraps(stock[name])(functools.partial(self.filters[name]))
        self.functions: dict[str, Callable[..., Any]] = {
            "cycler": Cycler,
            "dict": self._dict,
            "joiner": Joiner,
            "namespace": Space,
            "raise_exception": self._raise,
            "range": self._range,
            "strftime_now": self._strftime_now,
        }

    # Jinja's own filters with a charge before them.

    def _charged(self, function: Callable[..., Any], *, copies: bool = False) -> Callable[..., Any]:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            budget = self._env.budget
            budget.charge(2)
            if copies and len(args) > skip:
                budget.charge(_length(args[skip]) >> 3)
                result = function(*args[:skip], self._metered(args[skip], 0), *args[skip + 1 :], **kwargs)
            else:
                result = function(*args, **kwargs)
            return result

        return charged

    def _over_text(self, name: str, function: Callable[..., Any], shift: int) -> Callable[..., Any]:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            budget = self._env.budget
            size = budget.weigh((args[skip:], kwargs))
            budget.charge(2 + (size >> shift))
            if name == "striptags":
                # Each comment and tag copies the text.
                text = str(args[0])
                budget.charge((text.count("<") * len(text)) >> 10)
            result = function(*args, **kwargs)
            # Some filters make a markup object, which is none of the texts of this sandbox.
            return str(result) if isinstance(result, str) and type(result) is not str else result

        return charged

    def _per_item(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def charged(context: Any, value: Any = (), *args: Any, **kwargs: Any) -> Any:
            steps = sum(2 + text.count(".") for text in (*args, *kwargs.values()) if isinstance(text, str))
            if name in ("max", "min", "groupby"):
                n = _length(value)
                self._env.budget.charge((1 + self._env.budget.weigh(value)) * n.bit_length() >> 7)
            if name == "selectattr" and isinstance(value, str) and _equals_constant(args):
                return iter(())  # characters have no such fields
            return function(context, self._metered(value, 1 + steps), *args, **kwargs)

        return charged

    def _number(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def charged(value: Any, *args: Any, **kwargs: Any) -> Any:
            budget = self._env.budget
            budget.charge(2 + (budget.weigh((value, args, kwargs)) >> 3))
            return self._env.bounded(function(budget.marks.plain_all(value), *args, **kwargs))

        return charged

    def _metered(self, value: Any, steps: int) -> Any:
        """The items of `value`, each charged; without `steps`, texts and lists stay as they are."""
        if steps == 0 and (isinstance(value, str | list | tuple | dict | range) or not _iterates(value)):
            return value
        return self._items(value, max(steps, 1)) if _iterates(value) else value

    def _items(self, value: Iterable[Any], steps: int) -> Iterator[Any]:
        budget = self._env.budget
        for item in value:
            budget.charge(steps)
            yield item

    # Texts.

    def _string(self, value: Any) -> str:
        return self._env.text(value)

    def _safe(self, value: Any) -> str:
        text = self._env.text(value)
        self._env.budget.charge(1 + (len(text) >> 8))
        return SafeText(text)

    def _escape(self, value: Any) -> str:
        return SafeText(texts.escape(self._env.budget, self._env.text(value)))

    def _forceescape(self, value: Any) -> str:
        return SafeText(texts.escape(self._env.budget, str(self._env.text(value))))

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        return texts.percent(self._env.budget, value, args, kwargs)

    def _replace(self, value: Any, old: Any, new: Any, count: int | None = None) -> str:
        text = self._env.text
        return texts.replace(self._env.budget, text(value), text(old), text(new), count)

    def _trim(self, value: Any, chars: str | None = None) -> str:
        text = self._env.text(value)
        args = () if chars is None else (chars,)
        self._env.budget.weigh(args)
        result: str = texts.call_method(self._env.budget, text, "strip", args, {})
        return result

    def _center(self, value: Any, width: int = 80) -> str:
        result: str = texts.call_method(self._env.budget, self._env.text(value), "center", (width,), {})
        return result

    def _indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._env.text(value)
        pad = width if isinstance(width, str) else " " * width if narrow(width) else None
        if pad is None or len(pad) > WIDEST:
            raise LimitError(f"The chat template indents by more than {WIDEST} characters")
        budget = self._env.budget
        budget.charge(1 + (len(text) >> 5))
        budget.check_text(len(text) + (text.count("\n") + 1) * len(pad))
        lines = text.split("\n")
        head = (pad if first else "") + lines[0]
        return "\n".join([head, *(pad + line if line or blank else line for line in lines[1:])])

    def _join(self, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        env, budget = self._env, self._env.budget
        separator = env.text(d)
        parts: list[str] = []
        for item in value:
            budget.charge(1)
            parts.append(env.text(item if attribute is None else self._attribute(item, attribute)))
        size = sum(map(len, parts)) + len(separator) * len(parts)
        budget.charge(size >> 8)
        budget.check_text(size)
        return separator.join(parts)

    def _wordwrap(
        self,
        s: str,
        width: int = 79,
        break_long_words: bool = True,
        wrapstring: str | None = None,
        break_on_hyphens: bool = True,
    ) -> str:
        budget = self._env.budget
        if not isinstance(width, int) or width < 1:
            raise TypeError("wordwrap needs a width above 0")
        # Words longer than a line are cut from the front, one line at a time.
        budget.charge(2 + (len(s) >> 2) + (len(s) * len(s) // width >> 12))
        budget.check_text(len(s) * (1 + len(wrapstring or "\n")))
        wrapped = self._stock["wordwrap"](self._env, s, width, break_long_words, wrapstring, break_on_hyphens)
        return str(wrapped)

    def _pprint(self, value: Any) -> str:
        import pprint

        budget = self._env.budget
        size = budget.weigh(value, plain=True)
        budget.check_text(size)
        budget.charge(size)
        return budget.marks.unescape(pprint.pformat(value))

    def _xmlattr(self, d: dict[str, Any], autospace: bool = True) -> str:
        budget = self._env.budget
        budget.check_text(6 * budget.weigh(d, plain=True))
        pairs = []
        for key, value in d.items():
            if value is None or isinstance(value, Undefined):
                continue
            if re.search(r"[\s/>=]", key):
                raise TypeError("xmlattr needs names without spaces, /, > and =")
            pairs.append(f'{self._escape(key)}="{self._escape(value)}"')
        return (" " if autospace and pairs else "") + " ".join(pairs)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        budget = self._env.budget
        if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
            raise LimitError("The chat template writes JSON with an indent above 16")
        size = budget.weigh(value, plain=True)
        budget.charge(size >> 6)
        budget.check_text(size + budget.weigh(separators))
        if separators is not None and any(len(part) > 4 for part in separators):
            raise LimitError("The chat template writes JSON with long separators")
        text = json.dumps(
            value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=bool(sort_keys)
        )
        if ensure_ascii and not text.isascii():
            marks = budget.marks
            text = _JSON_ASCII.sub(lambda m: m[0] if marks.in_text(m[0]) else json.dumps(m[0])[1:-1], text)
        budget.check_text(len(text))
        return text

    # Numbers and lists.

    def _round(self, value: float, precision: int = 0, method: str = "common") -> float:
        if method not in ("common", "ceil", "floor") or not isinstance(precision, int) or abs(precision) > 20:
            raise TypeError("round takes a precision of at most 20 digits, and common, ceil or floor")
        self._env.budget.charge(2)
        result: float = self._stock["round"](value, precision, method)
        return result

    def _sum(self, iterable: Iterable[Any], attribute: str | int | None = None, start: float = 0) -> float:
        total = start
        for item in iterable:
            self._env.budget.charge(1)
            number = item if attribute is None else self._attribute(item, attribute)
            if not isinstance(number, int | float) or not isinstance(total, int | float):
                raise TypeError("sum adds numbers only")
            total += number
        return self._env.bounded(total)  # type: ignore[no-any-return]

    def _attribute(self, item: Any, path: str | int) -> Any:
        if isinstance(path, int):
            return self._env.getitem(item, path)
        for part in path.split("."):
            self._env.budget.charge(1)
            item = self._env.getitem(item, int(part) if part.isdigit() else part)
        return item

    def _key(self, item: Any, attribute: str | int | None, case_sensitive: bool) -> Any:
        value = item if attribute is None else self._attribute(item, attribute)
        budget = self._env.budget
        budget.charge(budget.weigh(value) >> 6)  # before the copies that follow
        value = budget.marks.plain_all(value)
        return value.lower() if isinstance(value, str) and not case_sensitive else value

    def _sort(
        self,
        value: Iterable[Any],
        reverse: bool = False,
        case_sensitive: bool = False,
        attribute: str | int | None = None,
    ) -> list[Any]:
        items = list(self._items(value, 2))
        paths = str(attribute).split(",") if isinstance(attribute, str) else [attribute]
        keys = [[self._key(item, path, case_sensitive) for path in paths] for item in items]
        budget = self._env.budget
        budget.charge((budget.weigh(keys) >> 6) * len(items).bit_length())
        order = sorted(range(len(items)), key=keys.__getitem__, reverse=reverse)
        return [items[i] for i in order]

    def _dictsort(
        self, value: dict[Any, Any], case_sensitive: bool = False, by: str = "key", reverse: bool = False
    ) -> list[tuple[Any, Any]]:
        if by not in ("key", "value"):
            raise TypeError("dictsort sorts by key or by value")
        pairs = list(value.items())
        result: list[tuple[Any, Any]] = self._sort(pairs, reverse, case_sensitive, 0 if by == "key" else 1)
        return result

    def _unique(
        self, value: Iterable[Any], case_sensitive: bool = False, attribute: str | int | None = None
    ) -> Iterator[Any]:
        seen = set()
        for item in self._items(value, 2):
            key = self._key(item, attribute, case_sensitive)
            hash(key)  # lists and objects are refused, as in Jinja
            # Numbers of one's own choice can all have one hash; texts cannot.
            number = key if not isinstance(key, float) or not key.is_integer() else int(key)
            name = (isinstance(key, str), str(int(number) if isinstance(number, bool) else number))
            if name not in seen:
                seen.add(name)
                yield item

    def _batch(self, value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
        self._env.budget.charge(max(0, int(linecount)) >> 2 if fill_with is not None else 1)
        result: Iterator[list[Any]] = self._stock["batch"](self._items(value, 1), linecount, fill_with)
        return result

    def _slice(self, value: Iterable[Any], slices: int, fill_with: Any = None) -> Iterator[list[Any]]:
        self._env.budget.charge(max(0, int(slices)))
        items = list(self._items(value, 1))
        size, longer = divmod(len(items), slices)
        start = 0
        for number in range(slices):
            end = start + size + (number < longer)
            filler = [fill_with] if fill_with is not None and number >= longer else []
            yield items[start:end] + filler
            start = end

    def _attr(self, environment: Any, obj: Any, name: str) -> Any:
        self._env.budget.charge(2)
        return self._stock["attr"](environment, obj, name)

    def _random(self, context: Any, seq: Any) -> Any:
        self._env.budget.charge(2)
        return self._stock["random"](context, seq)

    # Functions.

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        budget = self._env.budget
        for pairs in args:
            n = _length(pairs)
            budget.charge(n >> 3)
            if not isinstance(pairs, dict):
                pairs = list(self._items(pairs, 1))
                # Large numbers can all have one hash.
                large = sum(isinstance(pair[0], int | float) and abs(pair[0]) > 1 << 60 for pair in pairs)
                budget.charge(large * large)
                budget.weigh([pair[0] for pair in pairs])
            args = (pairs, *args[1:])
        return dict(*args, **kwargs)

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        self._env.budget.check_text(len(numbers) * 16)
        return numbers

    def _raise(self, message: Any) -> NoReturn:
        text = self._env.budget.marks.plain(self._env.text(message))
        raise TemplateError(f"The chat template refuses these messages: {text[:500]}")

    def _strftime_now(self, pattern: str) -> str:
        if len(pattern) > 100 or re.search(r"%[^a-zA-Z%]*\d", pattern):
            raise LimitError("The chat template uses a date format that is too long")
        from datetime import datetime

        return datetime.now().strftime(pattern)


def _equals_constant(args: tuple[Any, ...]) -> bool:
    """True for the arguments of a test that a field, other than a text's method, equals a text."""
    return (
        len(args) == 3
        and isinstance(args[0], str)
        and args[0].isidentifier()
        and not hasattr(str, args[0])
        and args[1] in ("equalto", "eq", "==")
        and isinstance(args[2], str)
    )


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | range) else 0


def _iterates(value: Any) -> bool:
    return hasattr(type(value), "__iter__")
