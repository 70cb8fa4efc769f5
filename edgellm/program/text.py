"""Text form of a program: printed by `edgellm show --program`, parsed by the native engine.

One line for each declaration and op, fields separated by one space. Floats are written so that they read back
as the same double (docs/architecture.md, "The program's text form").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from edgellm.errors import FormatError
from edgellm.program.check import check
from edgellm.program.ops import SPECS, Attr, AttrValue, CacheSpec, Op, Program, RopeTable, StateSpec

_T = TypeVar("_T")
_HEADER = ("n_vocab", "width", "n_layers", "n_ctx_train", "pooling")
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_STATE_KINDS = ("short_conv", "gated_delta", "ssm")


def to_text(program: Program) -> str:
    """The program as text, one line per declaration and op."""
    p = program
    lines = [
        f"program {p.family} n_vocab={p.n_vocab} width={p.width} n_layers={p.n_layers} "
        f"n_ctx_train={p.n_ctx_train} pooling={p.pooling}"
    ]
    for table in p.tables.values():
        freqs = ",".join(map(repr, table.inv_freq))
        lines.append(f"table {table.name} mscale={table.mscale!r} inv_freq={freqs}")
    for i, c in enumerate(p.caches):
        lines.append(
            f"cache {i} n_kv_heads={c.n_kv_heads} key_dim={c.key_dim} value_dim={c.value_dim} "
            f"window={c.window}"
        )
    for i, s in enumerate(p.states):
        lines.append(f"state {i} kind={s.kind} size={s.size}")
    for name, shape in p.weights.items():
        lines.append(f"weight {name} {' '.join(map(str, shape))}")
    for op in p.ops:
        fields = [op.out, "=", op.kind, *op.ins]
        roles = (role.removesuffix("?") for role in SPECS[op.kind].weights)
        fields += [f"{role}:{op.weights[role]}" for role in roles if role in op.weights]
        fields += [f"{name}={_write(op.attrs[name])}" for name in SPECS[op.kind].attrs]
        lines.append(" ".join((*fields, "->", str(p.widths[op.out]))))
    lines.append(f"output hidden={p.hidden} logits={p.logits or '-'}")
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Program:
    """Parse and check a program's text form.

    Raises FormatError naming the line, what was found and what was expected; ModelError if the program is
    well-formed but inconsistent.
    """
    header: dict[str, str] = {}
    output: dict[str, str] = {}
    ops: list[Op] = []
    widths: dict[str, int] = {}
    weights: dict[str, tuple[int, ...]] = {}
    tables: dict[str, RopeTable] = {}
    caches: list[CacheSpec] = []
    states: list[StateSpec] = []
    family = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        reader = _Line(number, line.split(" "))
        if bool(header) == (reader.fields[0] == "program"):
            raise reader.error(reader.fields[0], "one 'program' line, first")
        if output:
            raise reader.error(reader.fields[0], "nothing after the 'output' line")
        match reader.fields[0]:
            case "program":
                family = reader.field(1, "the family's name")
                header = reader.named(2, _HEADER)
                counts = {name: reader.int(header[name]) for name in _HEADER[:-1]}
            case "table":
                name = reader.field(1, "the table's name")
                values = reader.named(2, ("mscale", "inv_freq"))
                freqs = tuple(map(reader.float, values["inv_freq"].split(",")))
                reader.unique(name, tables)
                tables[name] = RopeTable(name, freqs, reader.float(values["mscale"]))
            case "cache":
                reader.index(len(caches))
                sizes = reader.named(2, ("n_kv_heads", "key_dim", "value_dim", "window"))
                caches.append(CacheSpec(*map(reader.int, sizes.values())))
            case "state":
                reader.index(len(states))
                values = reader.named(2, ("kind", "size"))
                states.append(_state(reader, values["kind"], reader.int(values["size"])))
            case "weight":
                name = reader.field(1, "the weight's name")
                reader.unique(name, weights)
                weights[name] = tuple(map(reader.int, reader.fields[2:]))
            case "output":
                output = reader.named(1, ("hidden", "logits"))
            case _:
                op, width = _read_op(reader)
                reader.unique(op.out, widths)
                widths[op.out] = width
                ops.append(op)
    if not header or not output:
        raise FormatError(
            f"program text: no {'output' if header else 'program'!r} line; the text is cut short"
        )
    program = Program(
        family=family,
        n_vocab=counts["n_vocab"],
        width=counts["width"],
        n_layers=counts["n_layers"],
        n_ctx_train=counts["n_ctx_train"],
        ops=tuple(ops),
        widths=widths,
        weights=weights,
        tables=tables,
        caches=tuple(caches),
        states=tuple(states),
        hidden=output["hidden"],
        logits=None if output["logits"] == "-" else output["logits"],
        pooling=header["pooling"],
    )
    check(program)
    return program


def _write(value: AttrValue) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    return value if isinstance(value, str) else repr(value)


class _Line:
    """Fields of one line; errors name the line."""

    def __init__(self, number: int, fields: list[str]) -> None:
        self.number = number
        self.fields = fields

    def error(self, found: str, expected: str) -> FormatError:
        return FormatError(f"program text, line {self.number}: found {found[:80]!r}, expected {expected}")

    def field(self, index: int, expected: str) -> str:
        if index >= len(self.fields):
            raise self.error("the end of the line", expected)
        return self.fields[index]

    def named(self, start: int, names: tuple[str, ...], stop: int | None = None) -> dict[str, str]:
        """Fields from `start` on, which must be exactly `name=value` in the order of `names`."""
        fields = self.fields[start:stop]
        values: dict[str, str] = {}
        for field, name in zip(fields, names, strict=False):
            key, equals, value = field.partition("=")
            if key != name or not equals or not value:
                raise self.error(field, f"{name}=...")
            values[name] = value
        if len(fields) < len(names):
            raise self.error("the end of the line", f"{names[len(fields)]}=...")
        if len(fields) > len(names):
            raise self.error(fields[len(names)], "the end of the line")
        return values

    def index(self, expected: int) -> None:
        if self.field(1, f"its number, {expected}") != str(expected):
            raise self.error(self.fields[1], f"the next number, {expected}")

    def unique(self, name: str, known: Mapping[str, object]) -> None:
        if name in known:
            raise self.error(name, "a name that no earlier line has defined")

    def int(self, text: str) -> int:
        if not _INT.fullmatch(text):
            raise self.error(text, "an integer")
        return int(text)

    def float(self, text: str) -> float:
        return self.parse(text, float, "a number")

    def parse(self, text: str, convert: Callable[[str], _T], expected: str) -> _T:
        try:
            return convert(text)
        except ValueError:
            raise self.error(text, expected) from None


def _state(line: _Line, kind: str, size: int) -> StateSpec:
    match kind:
        case "short_conv" | "gated_delta" | "ssm":
            return StateSpec(kind, size)
        case _:
            raise line.error(kind, f"one of {', '.join(_STATE_KINDS)}")


def _read_op(line: _Line) -> tuple[Op, int]:
    """`out = kind inputs... role:weight... attribute=value... -> width`."""
    if line.field(1, "'='") != "=":
        raise line.error(line.fields[0], "a declaration or an operation")
    out, kind = line.fields[0], line.field(2, "an operation")
    spec = SPECS.get(kind)
    if spec is None:
        raise line.error(kind, f"one of {', '.join(SPECS)}")
    if len(line.fields) < 5 or line.fields[-2] != "->":
        raise line.error(line.fields[-1], "'-> width' at the end")
    first_weight = 3 + len(spec.inputs)
    ins = tuple(line.fields[3:first_weight])
    first_attr = len(line.fields) - 2 - len(spec.attrs)
    weights: dict[str, str] = {}
    roles = [role.removesuffix("?") for role in spec.weights]
    for field in line.fields[first_weight:first_attr]:
        role, colon, name = field.partition(":")
        if role not in roles or not colon:
            raise line.error(field, f"role:weight with a role of {', '.join(roles) or 'none'}, in order")
        roles = roles[roles.index(role) + 1 :]
        weights[role] = name
    values = line.named(max(first_attr, first_weight), tuple(spec.attrs), -2)
    attrs = {name: _read_attr(line, attr, values[name]) for name, attr in spec.attrs.items()}
    return Op(kind, out, ins, weights, attrs), line.int(line.fields[-1])


def _read_attr(line: _Line, attr: Attr, text: str) -> AttrValue:
    match attr.type:
        case "int":
            return line.int(text)
        case "float":
            return line.float(text)
        case "bool":
            if text not in ("true", "false"):
                raise line.error(text, "true or false")
            return text == "true"
        case _:
            return text
