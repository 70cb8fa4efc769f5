"""A Jinja environment for templates nobody has read: plain data in, bounded text out.

Three layers. What can be reached: attributes and callables are an allow-list by type (strings, lists,
dicts, macros, loops), the filters are those chat templates use, and there is nothing to import. What
it costs: loops, macros, calls, filters, comparisons, operators and joins are charged to a `Budget`
before they run. What can grow: every operation that makes a text longer is measured first.

The dialect is the one that Hugging Face checkpoints are written for: `trim_blocks`, `lstrip_blocks`,
loop controls, `{% generation %}`, `raise_exception`, `strftime_now`, `tojson` without HTML escapes.
"""

from __future__ import annotations

import functools
import json
import re
import string
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from edgellm.chat.budget import MAX_DEPTH, MAX_INT_BITS, Budget, LimitError
from edgellm.chat.jinja import (
    CodeGenerator,
    Context,
    Extension,
    Frame,
    ImmutableSandboxedEnvironment,
    LoopContext,
    Macro,
    Namespace,
    Parser,
    SandboxedFormatter,
    SecurityError,
    Template,
    TemplateSyntaxError,
    Undefined,
    nodes,
)
from edgellm.errors import TemplateError

MAX_SOURCE = 64 * 1024
MAX_NODES = 3_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SEARCHES = _words(
    "count endswith find index partition removeprefix removesuffix replace rfind rindex rpartition rsplit "
    "split splitlines startswith"
)
_STR_METHODS = _SEARCHES | _words(
    "capitalize casefold center format isalnum isalpha isascii isdecimal isdigit isidentifier islower "
    "isnumeric isprintable isspace istitle isupper join ljust lower lstrip rjust rstrip strip swapcase title "
    "upper zfill"
)
_METHODS: dict[type, frozenset[str]] = {
    str: _STR_METHODS,
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("get", "items", "keys", "values")),
}
_LOOP_ATTRIBUTES = _words(
    "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
)
_FILTERS = _words(
    "abs capitalize count d default dictsort first float int items last length list lower map max min reject "
    "rejectattr reverse select selectattr sort title trim truncate unique upper wordcount"
)
_COMPARING_TESTS = _words("== != < <= > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper")
_TESTS = _COMPARING_TESTS | _words(
    "boolean callable defined divisibleby even false filter float integer iterable mapping none number odd "
    "sameas sequence string test true undefined"
)
_REFUSED = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
    nodes.EvalContextModifier,
    nodes.ScopedEvalContextModifier,
)
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")
_WIDEST = 200


class _Statements(Extension):
    """`{% break %}`, `{% continue %}`, and `{% generation %}`, which marks text for training only."""

    tags = {"break", "continue", "generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        token = next(parser.stream)
        if token.value == "break":
            return nodes.Break(lineno=token.lineno)
        if token.value == "continue":
            return nodes.Continue(lineno=token.lineno)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Generator(CodeGenerator):
    """Jinja's code generator, charging comparisons, joins, slices and dict keys; it folds no constants."""

    def _sized(self, node: nodes.Node, frame: Frame) -> None:
        if isinstance(node, nodes.Const):
            self.visit(node, frame)
            return
        self.write("environment.sized(")
        self.visit(node, frame)
        self.write(")")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._sized(node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        operators = {
            "eq": "==",
            "ne": "!=",
            "gt": ">",
            "gteq": ">=",
            "lt": "<",
            "lteq": "<=",
            "notin": "not in",
        }
        self.write(f" {operators.get(node.op, node.op)} ")
        self._sized(node.expr, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_text((")
        for child in node.nodes:
            self.visit(child, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self._sized(node.node, frame)
        self.write("[")
        self.visit(node.arg, frame)
        self.write("]")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self._sized(pair.key, frame)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")


def _n_nodes(tree: Iterable[nodes.Node]) -> int:
    """Nodes that run once when these run: bodies of loops and macros pay for themselves."""
    total = 0
    stack = list(tree)
    while stack:
        node = stack.pop()
        total += 1
        if not isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            stack.extend(node.iter_child_nodes())
    return total


def _tick(cost: int) -> nodes.EnvironmentAttribute:
    return nodes.EnvironmentAttribute(f"tick({cost})")


def _add_charges(tree: nodes.Template) -> None:
    """Refuse what a chat template has no use for, and charge loops and macros on entry."""
    total = 0
    stack: list[nodes.Node] = [tree]
    while stack:
        node = stack.pop()
        total += 1
        if total > MAX_NODES:
            raise LimitError(f"The chat template has more than {MAX_NODES} parts")
        if isinstance(node, _REFUSED):
            raise TemplateError(
                f"The chat template uses {type(node).__name__.lower()} (line {node.lineno}), "
                "which is not allowed"
            )
        stack.extend(node.iter_child_nodes())
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            cost = 2 + _n_nodes(node.body) // 4
            node.body.insert(0, nodes.ExprStmt(_tick(cost), lineno=node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(_tick(1 + _n_nodes([node.test]) // 4), node.test)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment all chat templates are compiled in; one rendering at a time per thread."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "*", "**", "%", "-", "/", "//"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Statements],
            optimized=False,
            finalize=self._finalize,
            cache_size=0,
        )
        self._active = threading.local()
        # The environment's own attribute: `concat = environment.concat` in the code Jinja generates.
        self.concat = self._concat  # type: ignore[method-assign]
        stock_filters: dict[str, Any] = self.filters
        stock_tests: dict[str, Any] = self.tests
        self.filters = {name: self._charged(stock_filters[name], weigh=True) for name in _FILTERS}
        self.filters |= {
            "e": self._escape,
            "escape": self._escape,
            "format": self._percent,
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "round": self._round,
            "safe": self._text,
            "string": self._text,
            "sum": self._sum,
            "tojson": self._tojson,
        }
        self.tests = {
            name: self._charged(stock_tests[name], weigh=name in _COMPARING_TESTS) for name in sorted(_TESTS)
        }
        self._functions: dict[str, Callable[..., Any]] = {
            "range": self._range,
            "dict": dict,
            "namespace": Namespace,
            "raise_exception": self._raise,
            "strftime_now": self._strftime_now,
        }
        self.globals.clear()
        self.globals.update(self._functions)
        self._callable_ids = {id(function) for function in self._functions.values()}

    # Rendering.

    def load(self, source: str) -> Template:
        """The compiled template; TemplateError says where `source` is malformed or what it may not use."""
        if len(source) > MAX_SOURCE:
            raise LimitError(
                f"The chat template has {len(source)} characters, more than the limit of {MAX_SOURCE}"
            )
        try:
            tree = self.parse(source)
            _add_charges(tree)
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
        return "".join(pieces)

    @property
    def budget(self) -> Budget:
        budget: Budget | None = getattr(self._active, "budget", None)
        if budget is None:
            raise TemplateError("The chat template runs outside of a rendering")
        return budget

    # What the generated code calls.

    def tick(self, cost: int) -> bool:
        self.budget.charge(cost)
        return True

    def sized(self, value: Any) -> Any:
        if value is not None and value is not True and value is not False:
            self.budget.weigh(value)
        return value

    def join_text(self, parts: Iterable[Any]) -> str:
        return self._concat([self._text(part) for part in parts])

    def _concat(self, parts: Iterable[str]) -> str:
        budget = self.budget
        parts = list(parts)
        size = sum(map(len, parts))
        budget.charge(1 + len(parts) // 8 + (size >> 8))
        budget.check_text(size)
        return "".join(parts)

    def _finalize(self, value: Any) -> Any:
        return value if type(value) is str else self._text(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = self.budget
        kinds = (type(left), type(right))
        if operator == "%" and isinstance(left, str):
            return self._percent(left, *right) if isinstance(right, tuple) else self._percent(left, right)
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
        elif operator == "**" and kinds == (int, int) and left.bit_length() * abs(right) > MAX_INT_BITS:
            raise LimitError("The chat template computes a number that is too large")
        result = super().call_binop(context, operator, left, right)
        if type(result) is int and result.bit_length() > MAX_INT_BITS:
            raise LimitError("The chat template computes a number that is too large")
        budget.charge(1)
        return result

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(argument) is not str and type(argument) is not int:
            self.budget.weigh(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> None:
        """None: `call` itself treats `str.format`, where its arguments can be measured."""
        return

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return attr in _LOOP_ATTRIBUTES
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        if isinstance(obj, Macro):
            return attr == "name"
        return attr in _METHODS.get(type(obj), frozenset())

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = __self.budget
        if budget.depth >= MAX_DEPTH:
            raise LimitError(f"The chat template nests more than {MAX_DEPTH} calls")
        budget.charge(2 + (len(args) >> 3))
        budget.depth += 1
        try:
            if isinstance(__obj, types.BuiltinMethodType) and type(__obj.__self__) in _METHODS:
                return __self._call_method(__obj, args, kwargs)
            if not isinstance(__obj, Macro | LoopContext):
                budget.weigh(
                    (args, {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")})
                )
            return super().call(__context, __obj, *args, **kwargs)
        finally:
            budget.depth -= 1

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, types.MethodType) and isinstance(obj.__self__, LoopContext):
            return obj.__name__ in ("changed", "cycle")
        return isinstance(obj, Macro | LoopContext | Undefined) or id(obj) in self._callable_ids

    def _call_method(
        self, method: types.BuiltinMethodType, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        budget = self.budget
        owner, name = method.__self__, method.__name__
        kwargs = {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
        if isinstance(owner, str):
            size = budget.weigh(owner) + budget.weigh((args, kwargs))
            if name in _SEARCHES:
                budget.charge(size >> 5)
            if name == "format":
                return self._format(owner, args, kwargs)
            if name == "join":
                (items,) = args
                return self._join(items, owner)
            if name == "replace":
                return self._replace(owner, *args, **kwargs)
            if name in ("center", "ljust", "rjust", "zfill") and (not args or not _narrow(args[0])):
                raise LimitError(f"The chat template pads a text by more than {_WIDEST} characters")
        elif isinstance(owner, list | tuple):
            budget.weigh(owner)
            budget.weigh(args)
        else:
            budget.weigh(args)
        result = method(*args, **kwargs)
        if isinstance(result, list):
            budget.charge(len(result))
        return result

    # Filters and functions with limits of their own.

    def _charged(self, function: Callable[..., Any], *, weigh: bool) -> Callable[..., Any]:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            budget.charge(2)
            if weigh:
                budget.weigh((args[skip:], kwargs))
            result = function(*args, **kwargs)
            if isinstance(result, list):
                budget.charge(len(result))
            return result

        return charged

    def _text(self, value: Any) -> str:
        if type(value) is str:
            return value
        self.budget.check_text(self.budget.weigh(value, plain=True))
        return str(value)

    def _escape(self, value: Any) -> str:
        text = self._text(value)
        self.budget.charge(1 + (len(text) >> 6))
        for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;")):
            text = text.replace(plain, escaped)
        self.budget.check_text(len(text))
        return text

    def _percent(self, template: str, *args: Any, **kwargs: Any) -> str:
        if not isinstance(template, str) or (args and kwargs):
            raise TypeError("format needs a text and either positional or named values")
        fields = _PERCENT.findall(template)
        if any(size == "*" or (size and int(size[:9]) > _WIDEST) for field in fields for size in field):
            raise LimitError(f"The chat template formats with a width above {_WIDEST}")
        self._check_fields(template, len(fields), (args, kwargs))
        if len(args) == 1 and isinstance(args[0], dict):
            return template % args[0]
        return template % (kwargs or args)

    def _format(self, template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        fields = list(string.Formatter().parse(template))
        for _, _, spec, _ in fields:
            if spec and (
                "{" in spec or any(int(digits[:9]) > _WIDEST for digits in re.findall(r"\d+", spec))
            ):
                raise LimitError(f"The chat template formats with a width above {_WIDEST}")
        self._check_fields(template, len(fields), (args, kwargs))
        return SandboxedFormatter(self).vformat(template, args, kwargs)

    def _check_fields(self, template: str, n_fields: int, values: object) -> None:
        size = self.budget.weigh(values, plain=True)
        self.budget.charge(n_fields * 4)
        self.budget.check_text(len(template) + n_fields * (size + 2 * _WIDEST))

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        separator = self._text(d)
        parts: list[str] = []
        for item in value:
            self.budget.charge(1)
            parts.append(self._text(item if attribute is None else self.getitem(item, attribute)))
        size = sum(map(len, parts)) + len(separator) * len(parts)
        self.budget.charge(size >> 8)
        self.budget.check_text(size)
        return separator.join(parts)

    def _replace(self, value: Any, old: str, new: str, count: int | None = None) -> str:
        text, old, new = self._text(value), self._text(old), self._text(new)
        self.budget.charge(1 + (len(text) >> 5))
        limit = -1 if count is None else count
        found = text.count(old) if limit < 0 else min(text.count(old), limit)
        self.budget.check_text(len(text) + found * max(len(new) - len(old), 0))
        return text.replace(old, new, limit)

    def _indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._text(value)
        pad = width if isinstance(width, str) else " " * width if _narrow(width) else None
        if pad is None or len(pad) > _WIDEST:
            raise LimitError(f"The chat template indents by more than {_WIDEST} characters")
        self.budget.charge(1 + (len(text) >> 5))
        self.budget.check_text(len(text) + (text.count("\n") + 1) * len(pad))
        lines = text.split("\n")
        head = (pad if first else "") + lines[0]
        return "\n".join([head, *(pad + line if line or blank else line for line in lines[1:])])

    def _round(self, value: float, precision: int = 0, method: str = "common") -> float:
        if method != "common" or not isinstance(precision, int) or abs(precision) > 20:
            raise TypeError("round takes a precision of at most 20 digits and the method 'common'")
        return round(value, precision)

    def _sum(self, iterable: Iterable[Any], attribute: str | int | None = None, start: float = 0) -> float:
        total = start
        for item in iterable:
            self.budget.charge(1)
            number = item if attribute is None else self.getitem(item, attribute)
            if not isinstance(number, int | float) or not isinstance(total, int | float):
                raise TypeError("sum adds numbers only")
            total += number
        return total

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
            raise LimitError("The chat template writes JSON with an indent above 16")
        self.budget.check_text(self.budget.weigh(value, plain=True) + self.budget.weigh(separators))
        if separators is not None and any(len(part) > 4 for part in separators):
            raise LimitError("The chat template writes JSON with long separators")
        text = json.dumps(
            value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=bool(sort_keys)
        )
        if ensure_ascii:
            keep = self.budget.unescaped
            text = re.sub(r"[^\x00-\x7f]", lambda m: m[0] if m[0] == keep else json.dumps(m[0])[1:-1], text)
        self.budget.check_text(len(text))
        return text

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        self.budget.check_text(len(numbers) * 16)
        return numbers

    def _raise(self, message: Any) -> NoReturn:
        raise TemplateError(f"The chat template refuses these messages: {self._text(message)[:500]}")

    def _strftime_now(self, pattern: str) -> str:
        if len(pattern) > 100 or re.search(r"%[^a-zA-Z%]*\d", pattern):
            raise LimitError("The chat template uses a date format that is too long")
        return datetime.now().strftime(pattern)


def _narrow(width: object) -> bool:
    return isinstance(width, int) and width <= _WIDEST


def _where(template: Template, error: Exception) -> str:
    """Where in the template's source an exception came from: ` in line 12`, or nothing."""
    lineno = 0
    for frame, line in _frames(error):
        if (
            frame.f_code.co_name in ("root", "macro")
            or frame.f_globals.get("environment") is template.environment
        ):
            lineno = template.get_corresponding_lineno(line)
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
