"""Rules of each operation: the widths and weight shapes that fit, and the width of its value.

The builder applies them while a program grows, the checker to a whole program, so both refuse the same errors
with the same message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from edgellm.errors import ModelError
from edgellm.program.ops import SPECS, AttrValue, CacheSpec, Op, RopeTable, StateSpec

Shape = tuple[int, ...]


class Scope(NamedTuple):
    """Names that an op may refer to: widths of earlier values, weight shapes, tables, caches, states."""

    n_vocab: int
    widths: Mapping[str, int]
    weights: Mapping[str, Shape]
    tables: Mapping[str, RopeTable]
    caches: Sequence[CacheSpec]
    states: Sequence[StateSpec]


def fail(op: Op, message: str) -> NoReturn:
    """Raise ModelError for `op`, naming it and its value."""
    raise ModelError(f"{op.kind} ({op.out}): {message}")


def out_width(op: Op, scope: Scope) -> int:
    """Width of the op's value; ModelError when its inputs, weights or attributes do not fit."""
    spec = SPECS.get(op.kind)
    if spec is None:
        raise ModelError(f"{op.out}: unknown operation {op.kind!r}; expected one of {', '.join(SPECS)}")
    if len(op.ins) != len(spec.inputs):
        fail(op, f"has {len(op.ins)} inputs, expected {len(spec.inputs)} ({', '.join(spec.inputs)})")
    for name in op.ins:
        if name not in scope.widths:
            fail(op, f"reads {name!r}, which no earlier operation makes")
    _check_roles(op, spec.weights, scope)
    for name, attr in spec.attrs.items():
        if name not in op.attrs:
            fail(op, f"has no attribute {name!r}")
        _check_attr(op, name, op.attrs[name], attr.type, attr.choices, scope)
    if len(op.attrs) != len(spec.attrs):
        unknown = sorted(set(op.attrs) - set(spec.attrs))
        fail(op, f"has unknown attribute {unknown[0]!r}; expected {', '.join(spec.attrs) or 'none'}")
    return _RULES[op.kind](_View(op, scope))


def _check_roles(op: Op, roles: tuple[str, ...], scope: Scope) -> None:
    known = {role.removesuffix("?") for role in roles}
    for role, name in op.weights.items():
        if role not in known:
            fail(op, f"has unknown weight role {role!r}; expected {', '.join(sorted(known)) or 'none'}")
        if name not in scope.weights:
            fail(op, f"weight {name!r} is not declared")
    for role in roles:
        if not role.endswith("?") and role not in op.weights:
            fail(op, f"has no {role!r} weight")


def _check_attr(
    op: Op, name: str, value: AttrValue, kind: str, choices: tuple[str, ...], scope: Scope
) -> None:
    match kind:
        case "int":
            good = type(value) is int
        case "float":
            good = type(value) is float and math.isfinite(value)
        case "bool":
            good = type(value) is bool
        case "table":
            if value not in scope.tables:
                fail(op, f"{name}={value!r}, but the tables are {', '.join(scope.tables) or 'none'}")
            return
        case _:
            good = value in choices
    if not good:
        expected = f"one of {', '.join(choices)}" if choices else f"a finite {kind}"
        fail(op, f"{name}={value!r}, expected {expected}")


class _View:
    """One op with typed access to its parts; every method raises for a part that does not fit."""

    __slots__ = ("op", "scope", "widths")

    def __init__(self, op: Op, scope: Scope) -> None:
        self.op = op
        self.scope = scope
        self.widths = [scope.widths[name] for name in op.ins]

    def integer(self, name: str, minimum: int, maximum: int | None = None) -> int:
        value = self.op.attrs[name]
        assert type(value) is int
        if value < minimum or (maximum is not None and value > maximum):
            limit = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
            fail(self.op, f"{name}={value}, expected {limit}")
        return value

    def flag(self, name: str) -> bool:
        return self.op.attrs[name] is True

    def number(self, name: str) -> float:
        value = self.op.attrs[name]
        assert type(value) is float
        return value

    def split(self, what: str, width: int, groups: int) -> int:
        """Width of one of `groups` equal slices."""
        if width % groups:
            fail(self.op, f"{what} has width {width}, which {groups} groups do not divide")
        return width // groups

    def same(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            fail(self.op, f"{what} has width {found}, expected {expected}")

    def shape(self, role: str, expected: Sequence[int | None]) -> Shape:
        """Shape of a required weight; None in `expected` allows any size of at least one."""
        name = self.op.weights[role]
        shape = self.scope.weights[name]
        if len(shape) != len(expected) or any(
            found < 1 or (want is not None and found != want)
            for found, want in zip(shape, expected, strict=True)
        ):
            want_text = ", ".join("any" if want is None else str(want) for want in expected)
            fail(self.op, f"{role} weight {name!r} has shape {shape}, expected ({want_text})")
        return shape

    def vector(self, role: str, *sizes: int) -> None:
        """A weight of one dimension, if the op has it, must have one of `sizes`."""
        name = self.op.weights.get(role)
        if name is None:
            return
        shape = self.scope.weights[name]
        if len(shape) != 1 or shape[0] not in sizes:
            want = " or ".join(f"({size})" for size in dict.fromkeys(sizes))
            fail(self.op, f"{role} weight {name!r} has shape {shape}, expected {want}")

    def cache(self) -> CacheSpec:
        index = self.integer("cache", 0, len(self.scope.caches) - 1)
        return self.scope.caches[index]

    def state(self, kind: str, size: int) -> None:
        state = self.scope.states[self.integer("state", 0, len(self.scope.states) - 1)]
        if state.kind != kind or state.size != size:
            fail(
                self.op,
                f"state {self.op.attrs['state']} is {state.kind} of {state.size} values, "
                f"expected {kind} of {size}",
            )


def _embed(v: _View) -> int:
    n_rows, width = v.shape("weight", (None, None))
    v.integer("separator", -1)
    if v.op.attrs["source"] == "segment" and n_rows < 2:
        fail(v.op, f"weight {v.op.weights['weight']!r} has {n_rows} rows, expected 2 or more")
    if v.op.attrs["source"] == "token" and n_rows != v.scope.n_vocab:
        fail(
            v.op, f"weight {v.op.weights['weight']!r} has {n_rows} rows, expected {v.scope.n_vocab} (n_vocab)"
        )
    return width


def _norm(v: _View) -> int:
    width = v.widths[0]
    part = v.split("x", width, v.integer("groups", 1))
    if v.number("eps") < 0:
        fail(v.op, f"eps={v.number('eps')}, expected at least 0")
    v.vector("weight", part, width)
    v.vector("bias", part, width)
    return width


def _linear(v: _View) -> int:
    n_out, _ = v.shape("weight", (None, v.widths[0]))
    v.vector("bias", n_out)
    return n_out


def _linear_groups(v: _View) -> int:
    groups = v.integer("groups", 1)
    n_in = v.split("x", v.widths[0], groups)
    return groups * v.shape("weight", (groups, None, n_in))[1]


def _affine(v: _View) -> int:
    v.vector("weight", v.widths[0], 1)
    v.vector("bias", v.widths[0], 1)
    return v.widths[0]


def _rope(v: _View) -> int:
    head = v.split("x", v.widths[0], v.integer("groups", 1))
    n_pairs = len(v.scope.tables[str(v.op.attrs["table"])].inv_freq)
    if 2 * n_pairs > head:
        fail(v.op, f"the table rotates {2 * n_pairs} values, but a group has {head}")
    v.vector("factors", n_pairs)
    return v.widths[0]


def _position_scale(v: _View) -> int:
    v.integer("length", 1)
    if v.number("beta") < 0:
        fail(v.op, f"beta={v.number('beta')}, expected at least 0")
    return v.widths[0]


def _check_window(v: _View, cache: CacheSpec) -> None:
    window = v.integer("window", 0)
    if cache.window and not 0 < window <= cache.window:
        fail(v.op, f"window={window}, but its cache keeps only {cache.window} tokens")


def _check_distance_bias(v: _View, n_heads: int) -> None:
    if "distance_bias" not in v.op.weights:
        v.integer("max_distance", 0, 0)
        return
    n_buckets, _ = v.shape("distance_bias", (None, n_heads))
    if v.number("max_bias"):
        fail(v.op, "has distance_bias and max_bias, expected one of them")
    if v.flag("causal") or v.op.attrs["window"] != 0:
        fail(v.op, "has distance_bias, which needs causal=false and window=0")
    if n_buckets < 4 or n_buckets % 4:
        fail(v.op, f"distance_bias has {n_buckets} buckets, expected a multiple of 4")
    v.integer("max_distance", n_buckets // 4 + 1)


def _attention(v: _View) -> int:
    n_heads = v.integer("n_heads", 1)
    v.vector("sinks", n_heads)
    _check_distance_bias(v, n_heads)
    q, k, value = v.widths
    head_dim = v.split("q", q, n_heads)
    if v.number("max_bias") < 0:
        fail(v.op, f"max_bias={v.number('max_bias')}, expected at least 0")
    if not v.flag("causal"):
        v.integer("cache", -1, -1)
        v.integer("window", 0)
        if "sinks" in v.op.weights:
            fail(v.op, "has sinks, which need causal=true")
        if v.number("max_bias") and v.integer("window", 0):
            fail(v.op, "has max_bias and a window, which need causal=true")
        if k < head_dim:
            fail(v.op, f"k has width {k}, less than one head of {head_dim}")
        n_kv_heads = k // head_dim
        v.same("k", k, n_kv_heads * head_dim)
        v.split("the row of query heads", n_heads, n_kv_heads)
        return n_heads * v.split("v", value, n_kv_heads)
    cache = v.cache()
    v.same("q's head", head_dim, cache.key_dim)
    v.same("k", k, cache.n_kv_heads * cache.key_dim)
    v.same("v", value, cache.n_kv_heads * cache.value_dim)
    v.split("the row of query heads", n_heads, cache.n_kv_heads)
    _check_window(v, cache)
    return n_heads * cache.value_dim


def _attention_shared(v: _View) -> int:
    n_heads = v.integer("n_heads", 1)
    v.vector("sinks", n_heads)
    cache = v.cache()
    v.same("q's head", v.split("q", v.widths[0], n_heads), cache.key_dim)
    v.split("the row of query heads", n_heads, cache.n_kv_heads)
    _check_window(v, cache)
    return n_heads * cache.value_dim


def _same_width(v: _View) -> int:
    v.same(SPECS[v.op.kind].inputs[1], v.widths[1], v.widths[0])
    return v.widths[0]


def _unary(v: _View) -> int:
    return v.widths[0]


def _softcap(v: _View) -> int:
    if v.number("cap") <= 0:
        fail(v.op, f"cap={v.number('cap')}, expected more than 0")
    return v.widths[0]


def _mul(v: _View) -> int:
    v.split("a", v.widths[0], v.widths[1])
    return v.widths[0]


def _slice(v: _View) -> int:
    groups = v.integer("groups", 1)
    part = v.split("x", v.widths[0], groups)
    start = v.integer("start", 0, part - 1)
    return groups * v.integer("size", 1, part - start)


def _concat(v: _View) -> int:
    groups = v.integer("groups", 1)
    a = v.split("a", v.widths[0], 1 if v.flag("repeat_a") else groups)
    b = v.split("b", v.widths[1], 1 if v.flag("repeat_b") else groups)
    return groups * (a + b)


def _repeat(v: _View) -> int:
    v.split("x", v.widths[0], v.integer("groups", 1))
    return v.widths[0] * v.integer("times", 1)


def _moe(v: _View) -> int:
    width, n_experts = v.widths
    n_ff = v.shape("down", (n_experts, width, None))[2]
    roles = v.op.weights
    if "gate_up" in roles:
        if roles.keys() & {"gate", "up"}:
            fail(v.op, "has gate_up beside gate or up, expected one or the other")
        v.shape("gate_up", (n_experts, 2 * n_ff, width))
    elif "up" in roles:
        if "gate" in roles:
            v.shape("gate", (n_experts, n_ff, width))
        elif "gate_bias" in roles or v.op.attrs["activation"] == "swiglu_oai":
            fail(v.op, "has no gate, which its bias or activation needs")
        v.shape("up", (n_experts, n_ff, width))
    else:
        fail(v.op, "has neither gate_up nor up")
    for role, size in (("gate_bias", n_ff), ("up_bias", n_ff), ("down_bias", width)):
        if role in roles:
            v.shape(role, (n_experts, size))
    v.vector("selection_bias", n_experts)
    v.vector("expert_scale", n_experts)
    n_groups = v.integer("n_groups", 1)
    per_group = v.split("router", n_experts, n_groups)
    n_groups_used = v.integer("n_groups_used", 1, n_groups)
    if v.op.attrs["gating"] == "sparse_mixer" and (n_groups > 1 or "selection_bias" in roles):
        fail(v.op, "chooses by sparse_mixer, expected neither expert groups nor a selection bias")
    if v.number("jitter") < 0:
        fail(v.op, f"jitter={v.number('jitter')}, expected at least 0")
    v.integer("n_used", 1, n_groups_used * per_group)
    return width


def _short_conv(v: _View) -> int:
    width = v.widths[0]
    n_taps = v.shape("weight", (width, None))[1]
    v.vector("bias", width)
    v.state("short_conv", (n_taps - 1) * width)
    return width


def _gated_delta(v: _View) -> int:
    q, k, value, decay, beta = v.widths
    n_heads, n_key_heads = v.integer("n_heads", 1), v.integer("n_key_heads", 1)
    v.split("the row of value heads", n_heads, n_key_heads)
    key_dim = v.split("q", q, n_key_heads)
    v.same("k", k, q)
    v.same("decay", decay, n_heads)
    v.same("beta", beta, n_heads)
    v.state("gated_delta", n_heads * key_dim * v.split("v", value, n_heads))
    return value


def _ssm(v: _View) -> int:
    x, b, c, dt = v.widths
    n_heads, n_groups, d_state = v.integer("n_heads", 1), v.integer("n_groups", 1), v.integer("d_state", 1)
    head_dim = v.split("x", x, n_heads)
    v.split("the row of heads", n_heads, n_groups)
    v.same("b", b, n_groups * d_state)
    v.same("c", c, n_groups * d_state)
    v.same("dt", dt, n_heads)
    for role in ("a", "d", "dt_bias"):
        v.vector(role, n_heads)
    v.state("ssm", n_heads * head_dim * d_state)
    return x


_RULES: dict[str, Callable[[_View], int]] = {
    "embed": _embed,
    "norm": _norm,
    "linear": _linear,
    "linear_groups": _linear_groups,
    "affine": _affine,
    "rope": _rope,
    "position_scale": _position_scale,
    "attention": _attention,
    "attention_shared": _attention_shared,
    "glu": _same_width,
    "activation": _unary,
    "add": _same_width,
    "mul": _mul,
    "softcap": _softcap,
    "slice": _slice,
    "concat": _concat,
    "repeat": _repeat,
    "moe": _moe,
    "short_conv": _short_conv,
    "gated_delta": _gated_delta,
    "ssm": _ssm,
}
