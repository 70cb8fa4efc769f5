"""Jinja's compiler for the sandbox: what templates may use, and the charges in the code it writes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from edgellm.chat.budget import LimitError
from edgellm.chat.jinja import CodeGenerator, Extension, Frame, Parser, nodes
from edgellm.chat.loops import is_blank, item_test, looped
from edgellm.errors import TemplateError

MAX_NODES = 3_000
DICT_ATTRIBUTES = frozenset(dir(dict))
_NAMES = "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
LOOP_ATTRIBUTES = frozenset(_NAMES.split())
_REFUSED = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.EvalContextModifier,
    nodes.ScopedEvalContextModifier,
)


class Statements(Extension):
    """`{% break %}`, `{% continue %}`, and `{% generation %}`, which marks text for training only."""

    tags = {"break", "continue", "generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        token = next(parser.stream)
        if token.value == "break":
            return nodes.Break(lineno=token.lineno)
        if token.value == "continue":
            return nodes.Continue(lineno=token.lineno)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Generator(CodeGenerator):
    """Jinja's code generator, charging comparisons, joins, slices and dict keys; it folds no constants."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        calls = ((set_, set_.node) for set_ in node.find_all(nodes.Assign))
        self._spaces = {
            set_.target.name
            for set_, call in calls
            if isinstance(set_.target, nodes.Name)
            and isinstance(call, nodes.Call)
            and isinstance(call.node, nodes.Name)
            and call.node.name == "namespace"
        }
        self._item_tests: dict[int, tuple[str, int]] = {}
        super().visit_Template(node, frame)

    def write_commons(self) -> None:
        super().write_commons()
        for line in (
            "budget = environment.budget",
            "LoopContext = environment.loop_over",
            "Loop = environment.list_loop",
            "Space, fields, small = environment.space, environment.fields_of, environment.small",
        ):
            self.writeline(line)

    def visit_ExprStmt(self, node: nodes.ExprStmt, frame: Frame) -> None:
        if not isinstance(node.node, nodes.EnvironmentAttribute):
            super().visit_ExprStmt(node, frame)
            return
        # A tick, written out: it is the part of a round that every loop has.
        self.newline(node)
        self.write("budget.steps -= " + node.node.name.removeprefix("tick(").removesuffix(")"))
        self.writeline("if budget.steps < 0: budget.charge(0)")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        test = item_test(node, DICT_ATTRIBUTES)
        if test is not None:
            self._item_tests[id(looped(node))] = test
        super().visit_For(node, frame)

    def visit_Name(self, node: nodes.Name, frame: Frame) -> None:
        test, cost = self._item_tests.pop(id(node), ("", 0))
        if not test:
            super().visit_Name(node, frame)
            return
        self.write(f"environment.chosen({id(node)}, {cost}, ")
        super().visit_Name(node, frame)
        self.write(f", {test})")

    def _sized(self, node: nodes.Node, frame: Frame) -> None:
        if isinstance(node, nodes.Const):
            self.visit(node, frame)
            return
        # Most are short ASCII texts or small values: that is written out.
        self.write("(v if (type(v := ")
        self.visit(node, frame)
        self.write(
            ") is str and len(v) < 256 and v.isascii()) or type(v) in small else environment.sized(v))"
        )

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
        if node.op in ("in", "notin"):
            self.write("environment.searched(")
            self.visit(node.expr, frame)
            self.write(")")
        else:
            self._sized(node.expr, frame)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        self._visit_field(node, node.attr, super().visit_Getattr, frame)

    def _visit_field(
        self, node: nodes.Getattr | nodes.Getitem, key: str, usual: Callable[..., None], frame: Frame
    ) -> None:
        """A field of a variable that is an object, read without a call: templates do little else."""
        name = frame.symbols.ref(node.node.name) if isinstance(node.node, nodes.Name) else ""
        if not name or (isinstance(node, nodes.Getattr) and key in DICT_ATTRIBUTES):
            usual(node, frame)
            return
        if isinstance(node.node, nodes.Name) and node.node.name == "loop" and key in LOOP_ATTRIBUTES:
            self.write(f"({name}.{key} if type({name}) is Loop else ")
        elif isinstance(node.node, nodes.Name) and node.node.name in self._spaces and key[:1] != "_":
            self.write(
                f"(fields({name})[{key!r}] if type({name}) is Space and {key!r} in fields({name}) else "
            )
        else:
            self.write(f"({name}[{key!r}] if type({name}) is dict and {key!r} in {name} else ")
        usual(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_text((")
        for child in node.nodes:
            self.visit(child, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Const) and type(node.arg.value) is str:
            self._visit_field(node, node.arg.value, super().visit_Getitem, frame)
            return
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        self.write(")[")
        self.visit(node.arg, frame)
        self.write("]")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self.write("environment.weighed(")
            self.visit(pair.key, frame)
            self.write("): ")
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


def _done_flag(loop: nodes.For) -> nodes.Expr | None:
    """The flag that ends a loop's work: once it is set, no later round does anything.

    Templates search with loops that go on to the end, quadratic in the conversation:
    `{% for m in messages %}{% if not ns.found %}...{% endif %}{% endfor %}`.
    """
    body = [node for node in loop.body if not is_blank(node)]
    if len(body) != 1 or not isinstance(body[0], nodes.If):
        return None
    choice, test = body[0], body[0].test
    if all(map(is_blank, choice.body)):
        flag: nodes.Node = test
    elif isinstance(test, nodes.Not) and not choice.elif_ and not choice.else_:
        flag = test.node
    else:
        return None
    if not isinstance(flag, nodes.Getattr) or not isinstance(flag.node, nodes.Name):
        return None
    own = {name.name for name in loop.target.find_all(nodes.Name)} | {"loop"}
    if isinstance(loop.target, nodes.Name):
        own.add(loop.target.name)
    return None if flag.node.name in own else flag


def _passes_over_texts(loop: nodes.For) -> bool:
    """True if rounds over the characters of a text do nothing: the body only looks for fields of its items.

    Templates look for images among the parts of a content that may as well be a long text:
    `{% for part in message.content %}{% if part.type == 'image' %}...{% endif %}{% endfor %}`.
    """
    target, source = loop.target, loop.iter
    while isinstance(source, nodes.Getattr) or (
        isinstance(source, nodes.Getitem) and isinstance(source.arg, nodes.Const)
    ):
        source = source.node
    if loop.else_ or loop.test is not None or loop.recursive or not isinstance(source, nodes.Name):
        return False
    if not isinstance(target, nodes.Name):
        return False
    choices = [node for node in loop.body if not is_blank(node)]
    for choice in choices:
        if not isinstance(choice, nodes.If) or choice.else_:
            return False
        if not all(_asks_for_field(one.test, target.name) for one in (choice, *choice.elif_)):
            return False
    return bool(choices)


def _asks_for_field(test: nodes.Node, name: str) -> bool:
    """True for `name.field == 'constant' and ...`, which no text fulfils."""
    while isinstance(test, nodes.And):
        test = test.left
    if not isinstance(test, nodes.Compare) or [operand.op for operand in test.ops] != ["eq"]:
        return False
    field, constant = test.expr, test.ops[0].expr
    if not isinstance(constant, nodes.Const) or not isinstance(constant.value, str):
        return False
    if isinstance(field, nodes.Getitem):
        if not isinstance(field.arg, nodes.Const) or not isinstance(field.arg.value, str):
            return False
    elif not isinstance(field, nodes.Getattr):
        return False
    return isinstance(field.node, nodes.Name) and field.node.name == name


def add_charges(tree: nodes.Template) -> None:
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
            done = _done_flag(node) if isinstance(node, nodes.For) else None
            cost = 2 + _n_nodes(node.body) // 4
            if isinstance(node, nodes.For) and _passes_over_texts(node):
                value = copy.copy(node.iter)
                text = nodes.Test(value, "string", [], [], None, None, lineno=node.lineno)
                node.iter = nodes.CondExpr(text, nodes.List([]), node.iter, lineno=node.lineno)
            if done is not None:
                node.body.insert(0, nodes.If(done, [nodes.Break()], [], [], lineno=node.lineno))
            node.body.insert(0, nodes.ExprStmt(_tick(cost), lineno=node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(_tick(1 + _n_nodes([node.test]) // 4), node.test)
