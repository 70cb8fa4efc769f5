"""A Jinja environment for templates nobody has read: plain data in, bounded text out.

Three layers. What can be reached: attributes and callables are an allow-list by type (strings, lists,
dicts, macros, loops), the filters are Jinja's own without `urlize`, and there is nothing to import. What
it costs: loops, macros, calls, filters, comparisons, operators and joins are charged to a `Budget`
before they run. What can grow: every operation that makes a text longer is measured first.

The dialect is the one that Hugging Face checkpoints are written for: `trim_blocks`, `lstrip_blocks`,
loop controls, `{% generation %}`, `raise_exception`, `strftime_now`, `tojson` without HTML escapes.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from edgellm.chat import texts
from edgellm.chat.budget import MAX_DEPTH, MAX_INT_BITS, Budget, LimitError
from edgellm.chat.compiling import DICT_ATTRIBUTES, LOOP_ATTRIBUTES, Generator, Statements, add_charges
from edgellm.chat.filters import Filters
from edgellm.chat.jinja import (
    Context,
    Cycler,
    ImmutableSandboxedEnvironment,
    Joiner,
    LoopContext,
    Macro,
    Namespace,
    SandboxedFormatter,
    SecurityError,
    Template,
    TemplateSyntaxError,
    Undefined,
)
from edgellm.chat.loops import Chosen, ListLoop, Space, fields_of, loop_over
from edgellm.chat.texts import SafeText, words
from edgellm.errors import TemplateError

MAX_SOURCE = 64 * 1024
MAX_KEPT = 32


METHODS: dict[type, frozenset[str]] = {
    str: texts.METHODS,
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("get", "items", "keys", "values")),
    SafeText: texts.METHODS,
    Cycler: frozenset(("current", "next", "reset")),
}
_COMPARING_TESTS = words("== != < <= > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper")
_TESTS = _COMPARING_TESTS | words(
    "boolean callable defined divisibleby even false filter float integer iterable mapping none number odd "
    "sameas sequence string test true undefined"
)
_SUMS = frozenset("+-")
_INTEGERS = (int, int)
_SMALL = frozenset((int, bool, float, type(None)))


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment all chat templates are compiled in; one rendering at a time per thread."""

    code_generator_class = Generator
    intercepted_binops = frozenset(("+", "*", "**", "%", "-", "/", "//"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Statements],
            optimized=False,
            finalize=self._finalize,
            cache_size=0,
        )
        self._active = threading.local()
        self._kept = functools.lru_cache(MAX_KEPT)(self._load)
        # Names in the code that `Generator` writes.
        self.loop_over, self.list_loop, self.space, self.fields_of = loop_over, ListLoop, Space, fields_of
        self.small = _SMALL
        # The environment's own attribute: `concat = environment.concat` in the code Jinja generates.
        self.concat = self._concat  # type: ignore[method-assign]
        stock_filters: dict[str, Any] = self.filters
        stock_tests: dict[str, Any] = self.tests
        tables = Filters(self, stock_filters)
        self.filters = tables.filters
        self.tests = {
            name: self._charged_test(stock_tests[name], compares=name in _COMPARING_TESTS)
            for name in sorted(_TESTS)
        }
        self.globals.clear()
        self.globals.update(tables.functions)
        self._callable_ids = {id(function) for function in tables.functions.values()}
        self._bounded_ids = self._callable_ids - {id(Cycler), id(Joiner), id(Space)}

    # Rendering.

    def load(self, source: str) -> Template:
        """The compiled template; TemplateError says where `source` is malformed or what it may not use.

        The last ones are kept.
        """
        return self._kept(source)

    def _load(self, source: str) -> Template:
        if len(source) > MAX_SOURCE:
            raise LimitError(
                f"The chat template has {len(source)} characters, more than the limit of {MAX_SOURCE}"
            )
        try:
            tree = self.parse(source)
            add_charges(tree)
            code = self.compile(tree)
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"The chat template is malformed: {error.message} (line {error.lineno})"
            ) from None
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
            raise TemplateError(f"The chat template cannot be compiled: {type(error).__name__}") from None
        return Template.from_code(self, code, self.globals)

    def render(self, template: Template, variables: Mapping[str, Any], budget: Budget) -> str:
        """The template's text for `variables` (plain data); TemplateError says what went wrong and where."""
        self._active.budget = budget
        pieces: list[str] = []
        size = 0
        try:
            for piece in template.root_render_func(template.new_context(dict(variables))):
                size += len(piece)
                budget.check_text(size)
                pieces.append(piece)
            # Here, because the block of a filter such as `list` is no text, as in Jinja itself.
            return "".join(pieces)
        except TemplateError:
            raise
        except SecurityError as error:
            raise TemplateError(f"The chat template breaks out of its sandbox: {error.message}") from None
        except Exception as error:
            # Anything may come out of untrusted code; whatever it was, it is the template's fault.
            text = str(error) or type(error).__name__
            raise TemplateError(f"The chat template fails{_where(template, error)}: {text[:300]}") from None
        finally:
            self._active.budget = None

    @property
    def budget(self) -> Budget:
        budget: Budget | None = getattr(self._active, "budget", None)
        if budget is None:
            raise TemplateError("The chat template runs outside of a rendering")
        return budget

    # Functions that the generated code calls.

    def tick(self, cost: int) -> bool:
        budget = self._active.budget
        budget.steps -= cost
        if budget.steps < 0:
            budget.charge(0)
        return True

    def sized(self, value: Any) -> Any:
        """A value to compare, charged by its size and without marks."""
        kind = type(value)
        if kind in _SMALL or (kind is str and len(value) < 256 and value.isascii()):
            return value
        budget = self.budget
        budget.weigh(value)
        return value if type(value) is str and value.isascii() else budget.marks.plain_all(value)

    def chosen(self, key: int, cost: int, items: Any, test: Callable[[Any], Any]) -> Any:
        """The items of a list that pass a test, worked out when a loop sees the same list again."""
        if type(items) is not list:
            return items
        budget = self.budget
        seen = budget.chosen.get(key)
        if seen is None or seen[0] is not items:
            budget.chosen[key] = (items, None)
            return items
        if seen[1] is None:
            budget.charge(cost * len(items) // 4)
            found = Chosen(items, [place for place, item in enumerate(items) if _passes(test, item)])
            seen = budget.chosen[key] = (items, found)
        return seen[1]

    def searched(self, value: Any) -> Any:
        """A value to look for another in; of an object, its keys."""
        if type(value) is not dict:
            return self.sized(value)
        self.budget.charge(1 + (len(value) >> 4))
        return frozenset(self.budget.marks.plain_all(tuple(value)))

    def weighed(self, value: Any) -> Any:
        """A key of an object, charged by its size."""
        self.budget.weigh(value)
        return value

    def sliced(self, value: Any) -> Any:
        """A value to slice, charged by its length."""
        if isinstance(value, str):
            self.budget.charge(1 + (len(value) >> 8))
        elif isinstance(value, list | tuple):
            self.budget.charge(1 + (len(value) >> 6))
        return value

    def join_text(self, parts: Iterable[Any]) -> str:
        """The text of `a ~ b`."""
        return self._concat([self.text(part) for part in parts])

    def text(self, value: Any) -> str:
        """A value as text."""
        if isinstance(value, str):
            return value
        budget = self.budget
        budget.check_text(budget.weigh(value, plain=True))
        return texts.printed(budget.marks, value)

    def bounded(self, value: Any) -> Any:
        """A number; LimitError if it is too large."""
        if type(value) is int and value.bit_length() > MAX_INT_BITS:
            raise LimitError("The chat template computes a number that is too large")
        return value

    def _concat(self, parts: Iterable[str]) -> str:
        budget = self.budget
        parts = list(parts)
        size = sum(map(len, parts))
        budget.charge(1 + len(parts) // 8 + (size >> 8))
        budget.check_text(size)
        return "".join(parts)

    def _finalize(self, value: Any) -> Any:
        return value if type(value) is str else self.text(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = self.budget
        kinds = (type(left), type(right))
        if kinds == _INTEGERS and operator in _SUMS:
            budget.charge(1)
            return self.bounded(left + right if operator == "+" else left - right)
        if operator == "%" and isinstance(left, str):
            return texts.percent(budget, left, right if isinstance(right, tuple) else (right,), {})
        if operator == "*" and (sequences := [x for x in (left, right) if isinstance(x, str | list | tuple)]):
            times = right if sequences[0] is left else left
            n_items = len(sequences[0]) * max(times, 0) if isinstance(times, int) else 0
            budget.check_text(n_items)
            budget.charge(n_items >> (10 if isinstance(sequences[0], str) else 4))
        elif (
            operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple)
        ):
            budget.check_text(len(left) + len(right))
            budget.charge((len(left) + len(right)) >> 6)
            if isinstance(left, str) and isinstance(right, str) and SafeText in kinds:
                return SafeText(texts.escape(budget, left) + texts.escape(budget, right))
        elif operator == "**" and kinds == _INTEGERS and left.bit_length() * abs(right) > MAX_INT_BITS:
            raise LimitError("The chat template computes a number that is too large")
        budget.charge(1)
        return self.bounded(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict and attribute not in DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if kind is Space and attribute[:1] != "_" and attribute in fields_of(obj):
            return fields_of(obj)[attribute]
        if attribute in LOOP_ATTRIBUTES and isinstance(obj, LoopContext):
            try:
                return getattr(obj, attribute)
            except AttributeError:
                return self.undefined(obj=obj, name=attribute)
        self.budget.charge(1)  # an exception, as a rule
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        kind = type(obj)
        if kind is dict and type(argument) is str:
            if argument in obj:
                return obj[argument]
            if argument not in DICT_ATTRIBUTES:
                return self.undefined(obj=obj, name=argument)
        if (kind is list or kind is tuple) and type(argument) is int and -len(obj) <= argument < len(obj):
            return obj[argument]
        if type(argument) is not str and type(argument) is not int:
            self.budget.weigh(argument)
        self.budget.charge(1)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> None:
        """None: `call` itself treats `str.format`, where its arguments can be measured."""
        return

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return attr in LOOP_ATTRIBUTES
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        if isinstance(obj, Macro):
            return attr in ("name", "arguments")
        return attr in METHODS.get(type(obj), frozenset())

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = __self.budget
        if budget.depth >= MAX_DEPTH:
            raise LimitError(f"The chat template nests more than {MAX_DEPTH} calls")
        budget.charge(2 + (len(args) >> 3))
        budget.depth += 1
        try:
            if isinstance(__obj, types.BuiltinMethodType) and type(__obj.__self__) in METHODS:
                return __self._call_method(__obj, args, kwargs)
            if id(__obj) in __self._bounded_ids or isinstance(__obj, types.MethodType):
                budget.weigh(
                    (args, {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")})
                )
            return super().call(__context, __obj, *args, **kwargs)
        finally:
            budget.depth -= 1

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, types.MethodType):
            owner, name = obj.__self__, obj.__name__
            if isinstance(owner, LoopContext):
                return name in ("changed", "cycle")
            if isinstance(owner, Cycler):
                return name in ("next", "reset")
        return isinstance(obj, Macro | LoopContext | Joiner | Undefined) or id(obj) in self._callable_ids

    def _call_method(
        self, method: types.BuiltinMethodType, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        budget = self.budget
        owner, name = method.__self__, method.__name__
        kwargs = {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
        if isinstance(owner, str):
            if name == "join":
                (items,) = args
                return self.filters["join"](items, owner)
            budget.weigh((args, kwargs))
            if name == "format":
                return texts.format_text(budget, SandboxedFormatter(self), owner, args, kwargs)
            return texts.call_method(budget, owner, name, args, kwargs)
        if isinstance(owner, list | tuple):
            budget.weigh((owner, args))
            plain = budget.marks.plain_all
            return getattr(plain(owner), name)(*plain(args), **kwargs)
        budget.weigh(args[:1])
        result = method(*args, **kwargs)
        if name != "get":
            budget.charge(len(result) >> 4)
        return result

    def _charged_test(self, function: Callable[..., Any], *, compares: bool) -> Callable[..., Any]:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            budget.charge(1)
            if compares:
                budget.weigh((args[skip:], kwargs))
                args = (*args[:skip], *map(budget.marks.plain_all, args[skip:]))
            return function(*args, **kwargs)

        return charged


def _passes(test: Callable[[Any], Any], item: Any) -> bool:
    """True for an item that passes a test, and for one that is unlike what the test expects."""
    return not isinstance(item, dict) or bool(test(item))


def _where(template: Template, error: Exception) -> str:
    """Place of an exception in the template's source: ` in line 12`, or nothing."""
    last = 0
    for frame, line in _frames(error):
        if (
            frame.f_code.co_name in ("root", "macro")
            or frame.f_globals.get("environment") is template.environment
        ):
            last = line
    lineno = template.get_corresponding_lineno(last) if last else 0
    return f" in line {lineno}" if lineno else ""


def _frames(error: Exception) -> Iterator[tuple[types.FrameType, int]]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


@functools.cache
def sandbox() -> TemplateSandbox:
    """The process's one sandbox, made on first use."""
    return TemplateSandbox()
