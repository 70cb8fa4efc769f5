"""Builder: grows a program op by op; each method emits one op and returns the name of its value.

Every weight is declared with the shape that its op needs. If the builder knows the file's tensors, it refuses
a missing tensor or another shape at once, naming both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Literal

from edgellm.errors import ModelError
from edgellm.program.check import check_declarations
from edgellm.program.infer import Scope, Shape, out_width
from edgellm.program.ops import SPECS, AttrValue, CacheSpec, Op, Program, RopeTable, StateSpec

NormKind = Literal["rms", "layer", "l2"]
RopeKind = Literal["neox", "interleaved"]
Gating = Literal["softmax", "sigmoid", "softmax_chosen", "sparse_mixer"]


class Builder:
    """A program under construction. tensors: name -> shape of the model file's tensors, if known."""

    def __init__(
        self,
        family: str,
        *,
        n_vocab: int,
        width: int,
        n_layers: int,
        n_ctx_train: int,
        tensors: Mapping[str, Shape] | None = None,
    ) -> None:
        self.family = family
        self.n_vocab = n_vocab
        self.width = width
        self.n_layers = n_layers
        self.n_ctx_train = n_ctx_train
        self.tensors = tensors
        self._ops: list[Op] = []
        self._widths: dict[str, int] = {}
        self._weights: dict[str, Shape] = {}
        self._tables: dict[str, RopeTable] = {}
        self._caches: list[CacheSpec] = []
        self._states: list[StateSpec] = []
        self._scope = Scope(n_vocab, self._widths, self._weights, self._tables, self._caches, self._states)

    # Declarations of a program beside its ops.

    def has(self, name: str) -> bool:
        """True if the model file holds tensor `name`; False if the file is unknown."""
        return self.tensors is not None and name in self.tensors

    def width_of(self, value: str) -> int:
        """Width of an earlier value."""
        return self._widths[value]

    def weight(self, name: str, *shape: int) -> str:
        """Declare weight `name` of `shape`; ModelError if the file lacks it or has another shape.

        The file may store it with other dimensions of one, and a vector with more dimensions (one row per
        group). The declared shape is the one that the op uses.
        """
        if self.tensors is not None:
            found = self.tensors.get(name)
            if found is None:
                raise ModelError(
                    f"tensor {name!r} is missing: the {self.family} family expects it with shape {shape}; "
                    "the file is incomplete or of another kind than it says"
                )
            if not _same_layout(tuple(found), shape):
                raise ModelError(
                    f"tensor {name!r} has shape {tuple(found)}, but the {self.family} family expects {shape} "
                    "from the file's metadata"
                )
        declared = self._weights.setdefault(name, shape)
        if declared != shape:
            raise ModelError(f"tensor {name!r} is used with shape {shape} and with shape {declared}")
        return name

    def table(self, name: str, inv_freq: Sequence[float], mscale: float = 1.0) -> str:
        """Declare a table of rotation frequencies."""
        self._tables[name] = RopeTable(name, tuple(inv_freq), mscale)
        return name

    def cache(self, n_kv_heads: int, key_dim: int, value_dim: int, window: int = 0) -> int:
        """Declare a key/value cache; returns its index."""
        self._caches.append(CacheSpec(n_kv_heads, key_dim, value_dim, window))
        return len(self._caches) - 1

    def state(self, kind: Literal["short_conv", "gated_delta", "ssm"], size: int) -> int:
        """Declare a recurrent state of `size` float32 values; returns its index."""
        self._states.append(StateSpec(kind, size))
        return len(self._states) - 1

    def build(self, *, hidden: str, logits: str | None, pooling: str = "mean") -> Program:
        """The finished program, after a check."""
        program = Program(
            family=self.family,
            n_vocab=self.n_vocab,
            width=self.width,
            n_layers=self.n_layers,
            n_ctx_train=self.n_ctx_train,
            ops=tuple(self._ops),
            widths=dict(self._widths),
            weights=dict(self._weights),
            tables=dict(self._tables),
            caches=tuple(self._caches),
            states=tuple(self._states),
            hidden=hidden,
            logits=logits,
            pooling=pooling,
        )
        check_declarations(program)
        return program

    # One method per op of ops.SPECS.

    def embed(
        self,
        weight: str,
        n_rows: int,
        width: int,
        *,
        source: Literal["token", "position", "first", "segment"] = "token",
        separator: int = -1,
    ) -> str:
        """Row of `weight` (n_rows, width): by token id, by position, row 0, or by segment."""
        weights = {"weight": self.weight(weight, n_rows, width)}
        return self._emit("embed", (), weights, source=source, separator=separator)

    def norm(
        self,
        x: str,
        *,
        kind: NormKind,
        eps: float,
        groups: int = 1,
        weight: str | None = None,
        bias: str | None = None,
        shared: bool = True,
    ) -> str:
        """Normalize each group; weight and bias are as wide as a group, or as the whole row."""
        size = self._widths[x] // groups if shared else self._widths[x]
        weights = self._vectors({"weight": weight, "bias": bias}, size)
        return self._emit("norm", (x,), weights, kind=kind, eps=float(eps), groups=groups)

    def linear(self, x: str, weight: str, n_out: int, *, bias: str | None = None) -> str:
        """x @ weight.T + bias with weight (n_out, width of x)."""
        weights = {"weight": self.weight(weight, n_out, self._widths[x])}
        return self._emit("linear", (x,), weights | self._vectors({"bias": bias}, n_out))

    def linear_groups(self, x: str, weight: str, n_out: int, *, groups: int) -> str:
        """Per group x[g] @ weight[g].T with weight (groups, n_out, width of x / groups)."""
        weights = {"weight": self.weight(weight, groups, n_out, self._widths[x] // groups)}
        return self._emit("linear_groups", (x,), weights, groups=groups)

    def affine(
        self,
        x: str,
        *,
        factor: float = 1.0,
        weight: str | None = None,
        bias: str | None = None,
        size: int = 0,
    ) -> str:
        """x * factor * weight + bias; weight and bias of `size` values (0: as wide as x)."""
        weights = self._vectors({"weight": weight, "bias": bias}, size or self._widths[x])
        return self._emit("affine", (x,), weights, factor=float(factor))

    def rope(
        self, x: str, *, groups: int, table: str, kind: RopeKind = "neox", factors: str | None = None
    ) -> str:
        """Rotate pairs of each of `groups` heads by position."""
        weights = self._vectors({"factors": factors}, len(self._tables[table].inv_freq))
        return self._emit("rope", (x,), weights, groups=groups, kind=kind, table=table)

    def position_scale(self, x: str, beta: float, length: int) -> str:
        """x * (1 + beta * log(1 + floor(position / length)))."""
        return self._emit("position_scale", (x,), {}, beta=float(beta), length=length)

    def attention(
        self,
        q: str,
        k: str,
        v: str,
        *,
        n_heads: int,
        scale: float,
        cache: int = -1,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
        sinks: str | None = None,
        distance_bias: str | None = None,
        n_buckets: int = 0,
        max_distance: int = 0,
        max_bias: float = 0.0,
        bias_scale: float = 1.0,
    ) -> str:
        """Attention over the sequence, after k and v are appended to `cache` (-1 where not causal).

        distance_bias: weight (n_buckets, n_heads), added to the logits by distance.
        """
        weights = self._vectors({"sinks": sinks}, n_heads)
        if distance_bias is not None:
            weights["distance_bias"] = self.weight(distance_bias, n_buckets, n_heads)
        return self._emit(
            "attention",
            (q, k, v),
            weights,
            cache=cache,
            n_heads=n_heads,
            scale=float(scale),
            window=window,
            softcap=float(softcap),
            causal=causal,
            max_distance=max_distance,
            max_bias=float(max_bias),
            bias_scale=float(bias_scale),
        )

    def attention_shared(
        self,
        q: str,
        *,
        cache: int,
        n_heads: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks: str | None = None,
    ) -> str:
        """Attention over a cache that an earlier op of this step has filled."""
        weights = self._vectors({"sinks": sinks}, n_heads)
        return self._emit(
            "attention_shared",
            (q,),
            weights,
            cache=cache,
            n_heads=n_heads,
            scale=float(scale),
            window=window,
            softcap=float(softcap),
        )

    def glu(
        self, gate: str, up: str, *, activation: str = "silu", limit: float = 0.0, alpha: float = 1.0
    ) -> str:
        """activation(gate) * up."""
        return self._emit(
            "glu", (gate, up), {}, activation=activation, limit=float(limit), alpha=float(alpha)
        )

    def activation(self, x: str, fn: str, *, scalars: Mapping[str, float] = MappingProxyType({})) -> str:
        """fn(x), value by value. scalars: alpha_p, alpha_n and beta of `xielu`."""
        numbers = {name: float(scalars.get(name, 0.0)) for name in ("alpha_p", "alpha_n", "beta")}
        return self._emit("activation", (x,), {}, fn=fn, **numbers)

    def add(self, a: str, b: str) -> str:
        """a + b."""
        return self._emit("add", (a, b), {})

    def mul(self, a: str, b: str) -> str:
        """a * b; b as wide as a, or with one value per group of a."""
        return self._emit("mul", (a, b), {})

    def softcap(self, x: str, cap: float) -> str:
        """tanh(x / cap) * cap."""
        return self._emit("softcap", (x,), {}, cap=float(cap))

    def slice(self, x: str, start: int, size: int, *, groups: int = 1) -> str:
        """Values start .. start + size of each group."""
        return self._emit("slice", (x,), {}, groups=groups, start=start, size=size)

    def concat(
        self, a: str, b: str, *, groups: int = 1, repeat_a: bool = False, repeat_b: bool = False
    ) -> str:
        """Per group, the values of a, then those of b."""
        return self._emit("concat", (a, b), {}, groups=groups, repeat_a=repeat_a, repeat_b=repeat_b)

    def repeat(self, x: str, *, groups: int, times: int, interleave: bool = True) -> str:
        """Each group `times` times in a row, or the whole row `times` times."""
        return self._emit("repeat", (x,), {}, groups=groups, times=times, interleave=interleave)

    def moe(
        self,
        x: str,
        router: str,
        *,
        n_ff: int,
        n_used: int,
        down: str,
        gate: str | None = None,
        up: str | None = None,
        gate_up: str | None = None,
        gate_bias: str | None = None,
        up_bias: str | None = None,
        down_bias: str | None = None,
        selection_bias: str | None = None,
        expert_scale: str | None = None,
        gating: Gating = "softmax",
        normalize: bool = False,
        factor: float = 1.0,
        n_groups: int = 1,
        n_groups_used: int = 1,
        group_score: Literal["top2", "max"] = "top2",
        activation: str = "silu",
        limit: float = 0.0,
        alpha: float = 1.0,
        jitter: float = 0.0,
    ) -> str:
        """Mixture of experts with hidden width `n_ff`, chosen by the router's logits."""
        width, n_experts = self._widths[x], self._widths[router]
        shapes: dict[str, tuple[str | None, Shape]] = {
            "gate": (gate, (n_experts, n_ff, width)),
            "up": (up, (n_experts, n_ff, width)),
            "gate_up": (gate_up, (n_experts, 2 * n_ff, width)),
            "down": (down, (n_experts, width, n_ff)),
            "gate_bias": (gate_bias, (n_experts, n_ff)),
            "up_bias": (up_bias, (n_experts, n_ff)),
            "down_bias": (down_bias, (n_experts, width)),
            "selection_bias": (selection_bias, (n_experts,)),
            "expert_scale": (expert_scale, (n_experts,)),
        }
        return self._emit(
            "moe",
            (x, router),
            {role: self.weight(name, *shape) for role, (name, shape) in shapes.items() if name is not None},
            n_used=n_used,
            gating=gating,
            normalize=normalize,
            factor=float(factor),
            n_groups=n_groups,
            n_groups_used=n_groups_used,
            group_score=group_score,
            activation=activation,
            limit=float(limit),
            alpha=float(alpha),
            jitter=float(jitter),
        )

    def short_conv(
        self,
        x: str,
        weight: str,
        n_taps: int,
        *,
        bias: str | None = None,
        activation: Literal["none", "silu"] = "none",
    ) -> str:
        """Causal depthwise convolution of `n_taps` taps; declares its state."""
        width = self._widths[x]
        weights = {"weight": self.weight(weight, width, n_taps)} | self._vectors({"bias": bias}, width)
        state = self.state("short_conv", (n_taps - 1) * width)
        return self._emit("short_conv", (x,), weights, state=state, activation=activation)

    def gated_delta(
        self,
        q: str,
        k: str,
        v: str,
        decay: str,
        beta: str,
        *,
        n_heads: int,
        n_key_heads: int,
        scale: float,
        tiled: bool = False,
    ) -> str:
        """Gated delta rule; declares its state."""
        size = self._widths[q] // n_key_heads * self._widths[v]
        return self._emit(
            "gated_delta",
            (q, k, v, decay, beta),
            {},
            state=self.state("gated_delta", size),
            n_heads=n_heads,
            n_key_heads=n_key_heads,
            scale=float(scale),
            tiled=tiled,
        )

    def ssm(
        self,
        x: str,
        b: str,
        c: str,
        dt: str,
        *,
        a: str,
        d: str,
        dt_bias: str,
        n_heads: int,
        n_groups: int,
        d_state: int,
    ) -> str:
        """Mamba-2 scan; declares its state."""
        return self._emit(
            "ssm",
            (x, b, c, dt),
            self._vectors({"a": a, "d": d, "dt_bias": dt_bias}, n_heads),
            state=self.state("ssm", self._widths[x] * d_state),
            n_heads=n_heads,
            n_groups=n_groups,
            d_state=d_state,
        )

    def _vectors(self, names: Mapping[str, str | None], size: int) -> dict[str, str]:
        return {role: self.weight(name, size) for role, name in names.items() if name is not None}

    def _emit(self, kind: str, ins: tuple[str, ...], weights: dict[str, str], /, **attrs: AttrValue) -> str:
        out = f"x{len(self._ops)}"
        op = Op(kind, out, ins, weights, {name: attrs[name] for name in SPECS[kind].attrs})
        self._widths[out] = out_width(op, self._scope)
        self._ops.append(op)
        return out


def _same_layout(found: Shape, expected: Shape) -> bool:
    """True if values stored in shape `found` can be read in shape `expected`."""
    if len(expected) == 1:
        return prod(found) == expected[0]
    return [n for n in found if n != 1] == [n for n in expected if n != 1]
