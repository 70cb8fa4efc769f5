"""Check of a whole program: every op by the rules of its kind, and no declaration unused."""

from __future__ import annotations

import math
import re

from edgellm.errors import ModelError
from edgellm.program.infer import Scope, fail, out_width
from edgellm.program.ops import Op, Program

POOLINGS = ("mean", "cls", "last", "rank")

# A name is one field of the text form: no blanks, no control characters, not a comment.
_NAME = re.compile(r"[^\s#:=,-][^\s=]*")
_MAX_COUNT = 2**31 - 1


def check(program: Program) -> None:
    """Refuse an inconsistent program.

    Raises ModelError naming the op or the declaration, what was found and what was expected.
    """
    _check_header(program)
    widths: dict[str, int] = {}
    scope = Scope(program.n_vocab, widths, program.weights, program.tables, program.caches, program.states)
    for op in program.ops:
        if op.out in widths:
            fail(op, "makes a value that an earlier operation has made")
        _check_name(op.out, "value")
        width = out_width(op, scope)
        if program.widths.get(op.out) != width:
            fail(op, f"is declared {program.widths.get(op.out)} wide, but makes {width} values a row")
        widths[op.out] = width
    if len(program.widths) != len(widths):
        extra = next(name for name in program.widths if name not in widths)
        raise ModelError(f"value {extra!r} has a width, but no operation makes it")
    _check_whole(program)


def check_declarations(program: Program) -> None:
    """The part of `check` that concerns declarations; the builder checks single ops as they come."""
    _check_header(program)
    _check_whole(program)


def _check_whole(program: Program) -> None:
    _check_outputs(program)
    _check_state(program.ops, program)
    _check_use(program)


def _check_header(program: Program) -> None:
    _check_name(program.family, "family")
    for name in ("n_vocab", "width", "n_layers", "n_ctx_train"):
        value = getattr(program, name)
        if type(value) is not int or not 1 <= value <= _MAX_COUNT:
            raise ModelError(f"program: {name}={value!r}, expected 1 to {_MAX_COUNT}")
    if program.pooling not in POOLINGS:
        raise ModelError(f"program: pooling={program.pooling!r}, expected one of {', '.join(POOLINGS)}")
    for name, shape in program.weights.items():
        _check_name(name, "weight")
        if not 1 <= len(shape) <= 4 or not all(type(n) is int and 1 <= n <= _MAX_COUNT for n in shape):
            raise ModelError(f"weight {name!r} has shape {shape}, expected 1 to 4 sizes of at least 1")
    for name, table in program.tables.items():
        _check_name(name, "table")
        numbers = (*table.inv_freq, table.mscale)
        if table.name != name or not table.inv_freq or not all(math.isfinite(n) for n in numbers):
            raise ModelError(f"table {name!r}: expected at least one frequency, all of them finite")
    for index, cache in enumerate(program.caches):
        sizes = (cache.n_kv_heads, cache.key_dim, cache.value_dim)
        if not all(1 <= n <= _MAX_COUNT for n in sizes) or not 0 <= cache.window <= _MAX_COUNT:
            raise ModelError(
                f"cache {index}: {cache}, expected sizes of at least 1 and a window of at least 0"
            )


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise ModelError(f"{what} {name!r}: expected a name without blanks, '=' or a leading sign")


def _check_outputs(program: Program) -> None:
    widths = program.widths
    if program.hidden not in widths:
        raise ModelError(f"output: hidden={program.hidden!r}, which no operation makes")
    if program.logits is None:
        return
    if program.logits not in widths:
        raise ModelError(f"output: logits={program.logits!r}, which no operation makes")
    if widths[program.logits] != program.n_vocab:
        raise ModelError(
            f"output: logits={program.logits} is {widths[program.logits]} wide, "
            f"expected {program.n_vocab} (n_vocab)"
        )


def _check_state(ops: tuple[Op, ...], program: Program) -> None:
    """Raise unless each cache is filled once before it is shared, and each state belongs to one op."""
    filled: set[int] = set()
    owned: set[int] = set()
    for op in ops:
        cache = op.attrs.get("cache", -1)
        state = op.attrs.get("state", -1)
        assert isinstance(cache, int)
        assert isinstance(state, int)
        if op.kind == "attention_shared" and cache not in filled:
            fail(op, f"reads cache {cache}, which no earlier attention fills")
        if op.kind == "attention" and cache >= 0:
            if cache in filled:
                fail(op, f"fills cache {cache}, which an earlier attention has filled")
            filled.add(cache)
        if state >= 0:
            if state in owned:
                fail(op, f"uses state {state}, which belongs to an earlier operation")
            owned.add(state)
    for what, used, n in (("cache", filled, len(program.caches)), ("state", owned, len(program.states))):
        if len(used) != n:
            raise ModelError(f"{what} {min(set(range(n)) - used)} is declared, but no operation uses it")


def _check_use(program: Program) -> None:
    values = {program.hidden, program.logits}
    weights: set[str] = set()
    tables: set[object] = set()
    for op in program.ops:
        values.update(op.ins)
        weights.update(op.weights.values())
        if "table" in op.attrs:
            tables.add(op.attrs["table"])
    for op in program.ops:
        if op.out not in values:
            fail(op, "makes a value that nothing reads")
    for what, declared, used in (("weight", program.weights, weights), ("table", program.tables, tables)):
        for name in declared:
            if name not in used:
                raise ModelError(f"{what} {name!r} is declared, but no operation uses it")
