"""Loops and namespaces of the sandbox: Jinja's, made for lists and plain fields, which templates mostly use.

Templates look for a message among all messages, for every message. `item_test` finds the part of such a
loop's condition that only reads the item; the sandbox keeps the items that pass it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgellm.chat.jinja import LoopContext, Namespace, Undefined, nodes


class Space(Namespace):
    """A namespace whose fields are read without a call of Python code: `fields_of(space)`."""

    __slots__ = ("fields",)
    fields: dict[str, Any]

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        Namespace.__init__(self)
        _set_fields(self, dict(*args, **kwargs))

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        try:
            return fields_of(self)[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        fields_of(self)[name] = value

    def __repr__(self) -> str:
        return f"<Namespace {fields_of(self)!r}>"


fields_of: Callable[[Space], dict[str, Any]] = vars(Space)["fields"].__get__
_set_fields: Callable[[Space, dict[str, Any]], None] = vars(Space)["fields"].__set__


class Chosen(list[Any]):
    """The items of a list that a loop may act on; `places` are theirs in the `whole` list."""

    __slots__ = ("places", "whole")

    def __init__(self, whole: list[Any], places: Sequence[int]) -> None:
        super().__init__(whole[place] for place in places)
        self.whole, self.places = whole, places


class ListLoop(LoopContext):
    """`loop` in a loop over a list: the place is all that it keeps."""

    def __init__(self, items: list[Any], undefined: type[Undefined]) -> None:
        super().__init__((), undefined)
        self.items = items.whole if isinstance(items, Chosen) else items
        self._places = items.places if isinstance(items, Chosen) else None

    def __iter__(self) -> Iterator[tuple[Any, LoopContext]]:  # type: ignore[override]
        items = self.items
        if self._places is None:
            for self.index0, item in enumerate(items):
                yield item, self
        else:
            for place in self._places:
                self.index0 = place
                yield items[place], self

    @property
    def length(self) -> int:
        return len(self.items)

    @property
    def last(self) -> bool:
        return self.index0 == len(self.items) - 1

    @property
    def previtem(self) -> Any:
        return self.items[self.index0 - 1] if self.index0 else self._undefined("there is no previous item")

    @property
    def nextitem(self) -> Any:
        return self._undefined("there is no next item") if self.last else self.items[self.index0 + 1]


def loop_over(
    items: Any, undefined: type[Undefined], recurse: Any = None, depth: int = 0
) -> LoopContext | ListLoop:
    """The `loop` of a loop over `items`."""
    if recurse is None and type(items) in (list, Chosen):
        return ListLoop(items, undefined)
    return LoopContext(items, undefined, recurse, depth)


def item_test(loop: nodes.For, dict_attributes: frozenset[str]) -> tuple[str, int] | None:
    """Python source of a test that every item passes on which the loop does anything, and its nodes.

    None if there is no such test: the body must be one condition, which begins with a look at the item.
    """
    body = [node for node in loop.body if not isinstance(node, nodes.ExprStmt) and not is_blank(node)]
    if loop.else_ or loop.recursive or loop.test is not None or len(body) != 1:
        return None
    choice = body[0]
    if not isinstance(choice, nodes.If) or choice.elif_ or choice.else_:
        return None
    if not isinstance(loop.target, nodes.Name) or not isinstance(looped(loop), nodes.Name):
        return None
    parts: list[nodes.Node] = [choice.test]
    while isinstance(parts[0], nodes.And):
        parts[:1] = [parts[0].left, parts[0].right]
    tests: list[str] = []
    for part in parts:
        written = _written(part, loop.target.name, dict_attributes)
        if written is None:
            break
        tests.append(written)
    return (f"lambda item: {' and '.join(tests)}", 4 * len(tests)) if tests else None


def _written(node: nodes.Node, name: str, dict_attributes: frozenset[str]) -> str | None:
    """Python source of a condition that reads fields of `item` and nothing else."""
    if isinstance(node, nodes.Not):
        inner = _written(node.node, name, dict_attributes)
        return None if inner is None else f"(not {inner})"
    if isinstance(node, nodes.Compare):
        if len(node.ops) != 1 or node.ops[0].op not in ("eq", "ne"):
            return None
        constant = node.ops[0].expr
        field = _field(node.expr, name, dict_attributes)
        if field is None or not isinstance(constant, nodes.Const) or type(constant.value) is not str:
            return None
        sign = "==" if node.ops[0].op == "eq" else "!="
        return f"(environment.sized({field}) {sign} {constant.value!r})"
    return _field(node, name, dict_attributes)


def _field(node: nodes.Node, name: str, dict_attributes: frozenset[str]) -> str | None:
    """Python source of a field of `item`; what it lacks is None there, which no text equals."""
    if isinstance(node, nodes.Getattr) and node.attr not in dict_attributes:
        key: Any = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        key = node.arg.value
    else:
        return None
    if not isinstance(node.node, nodes.Name) or node.node.name != name or type(key) is not str:
        return None
    return f"item.get({key!r})"


def looped(loop: nodes.For) -> nodes.Node:
    """The expression that a loop runs over, unless it is a text."""
    return loop.iter.expr2 or loop.iter if isinstance(loop.iter, nodes.CondExpr) else loop.iter


def is_blank(node: nodes.Node) -> bool:
    """True for the nothing that stays of trimmed white space."""
    return isinstance(node, nodes.Output) and not node.nodes
