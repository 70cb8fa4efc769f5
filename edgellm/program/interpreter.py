"""NumPy interpreter of programs, for whole sequences: slow, plain, the oracle of the native engine.

Values are float32 rows. Norms, softmax and recurrent scans compute in float64 and round once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import ModelError, UsageError
from edgellm.program.activations import Exp, activate, gated, tanh
from edgellm.program.adapter import Adapter, Update
from edgellm.program.distance import biases
from edgellm.program.ops import Op, Program
from edgellm.program.routing import route

Array = NDArray[np.float32]


# Called with a matrix's name, its number in a stack of matrices, and its factor, rows (n_tokens, n_in).
Observe = Callable[[str, int, Array], None]
# x (n, n_in) and a matrix (n_out, n_in) -> x @ matrix.T.
Multiply = Callable[[Array, Array], Array]


def _multiply(x: Array, matrix: Array) -> Array:
    return x @ matrix.T


class Step(NamedTuple):
    """An op that all sequences have done: its values, and all that later ops read, by sequence.

    waiting: None while keys and values of an earlier attention are read later, too.
    """

    op: Op
    made: list[Array]
    waiting: list[dict[str, Array]] | None


class Interpreter:
    """Evaluates `program` over `weights` (name -> float32 array, which may be decoded at access).

    observe: called for every product of rows with a matrix, in the order of sequences. adapters: updates that
    may be added to matrices; `scales` of a run has one factor for each adapter, or is empty for none.
    multiply, exp: compute products and exponentials. workers: threads that share the sequences of `steps`.
    """

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Array],
        observe: Observe | None = None,
        adapters: Sequence[Adapter] = (),
        multiply: Multiply = _multiply,
        exp: Exp = np.exp,
        workers: int = 1,
    ) -> None:
        self.program = program
        self.weights = weights
        self.observe = observe
        self.adapters = adapters
        self.multiply = multiply
        self.exp = exp
        self.workers = workers

    def logits(
        self, ids: Sequence[int], scales: Sequence[float] = (), positions: Sequence[int] | None = None
    ) -> Array:
        """Logits (n_positions, n_vocab) of some positions of one sequence, in order, or of all."""
        if self.program.logits is None:
            raise UsageError(
                f"the {self.program.family} model is an encoder: it has no logits, only embeddings"
            )
        return self.values(ids, scales, positions)[self.program.logits]

    def each_logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Array]:
        """Logits (n_tokens, n_vocab) of one sequence after another.

        All do the ops before the head side by side, so that each weight is read once for all of them. As many
        as there are workers do the rest.
        """
        n_body = 1 + next(i for i, op in enumerate(self.program.ops) if op.out == self.program.hidden)
        (body,) = islice(self.steps(sequences), n_body - 1, n_body)
        waiting = body.waiting
        assert waiting is not None  # no attention follows the final norm
        for start in range(0, len(sequences), self.workers):
            some = slice(start, start + self.workers)
            for step in self.steps(sequences[some], n_body, waiting[some]):
                if step.op.out == self.program.logits:
                    yield from step.made

    def hidden(self, ids: Sequence[int], scales: Sequence[float] = ()) -> Array:
        """Rows (n_tokens, width) after the final norm."""
        return self.values(ids, scales)[self.program.hidden]

    def values(
        self, ids: Sequence[int], scales: Sequence[float] = (), positions: Sequence[int] | None = None
    ) -> dict[str, Array]:
        """The output values, and values that no op reads; all others are dropped after their last use.

        positions: those, at least one, whose rows go on after the program's last writer; None: all.
        """
        used = [(a.updates, scale) for a, scale in zip(self.adapters, scales, strict=False) if scale]
        run = self._run(ids, used, positions)
        for _ in self._steps([run]):
            pass
        return run.values

    def steps(
        self,
        sequences: Sequence[Sequence[int]],
        n_done: int = 0,
        waiting: Sequence[Mapping[str, Array]] = (),
    ) -> Iterator[Step]:
        """Run all sequences side by side; yields each op when all have done it.

        So each weight is read once, whatever the number of sequences. n_done: ops that an earlier run has
        done, and `waiting` as its last step had them.
        """
        runs = [self._run(ids, ()) for ids in sequences]
        for run, values in zip(runs, waiting, strict=n_done > 0):
            run.values.update(values)
        return self._steps(runs, n_done)

    def _run(
        self,
        ids: Sequence[int],
        used: Sequence[tuple[Mapping[str, Update], float]],
        positions: Sequence[int] | None = None,
    ) -> _Run:
        tokens = np.asarray(ids, dtype=np.int64)
        if tokens.ndim != 1 or not tokens.size or tokens.min() < 0 or tokens.max() >= self.program.n_vocab:
            raise UsageError(f"token ids: expected one or more of 0 to {self.program.n_vocab - 1}")
        wanted = None if positions is None else np.asarray(positions, dtype=np.int64)
        return _Run(self, tokens, wanted, used)

    def _steps(self, runs: Sequence[_Run], n_done: int = 0) -> Iterator[Step]:
        ops = self.program.ops
        last_use = {name: i for i, op in enumerate(ops) for name in op.ins}
        last_use |= dict.fromkeys((self.program.hidden, self.program.logits or ""), len(ops))
        last_cache = {int(op.attrs["cache"]): i for i, op in enumerate(ops) if "cache" in op.attrs}
        last_writer = self.program.last_writer
        workers = min(self.workers, len(runs))
        with ThreadPoolExecutor(workers) as pool:
            do_each = pool.map if workers > 1 else map
            for i, op in enumerate(ops[n_done:], n_done):
                read = {name: self.weights[name] for name in op.weights.values()} if len(runs) > 1 else None
                done = {name for name in op.ins if last_use[name] == i}
                made = list(do_each(partial(_Run.do, op=op, read=read, done=done), runs))
                for run in runs:
                    run.show_seen()
                    if last_cache.get(int(op.attrs.get("cache", -1))) == i:
                        run.caches.pop(int(op.attrs["cache"]), None)
                    if i == last_writer:
                        run.select()
                del read  # nothing of it is wanted before the next op
                free = not any(run.caches for run in runs)
                yield Step(op, made, [run.values for run in runs] if free else None)
                del made


class _Run:
    """One evaluation: the tokens, the values so far, the keys and values of each cache."""

    def __init__(
        self,
        model: Interpreter,
        tokens: NDArray[np.int64],
        wanted: NDArray[np.int64] | None,
        adapters: Sequence[tuple[Mapping[str, Update], float]],
    ) -> None:
        self.program = model.program
        self.adapters = adapters
        self.multiply = model.multiply
        self.exp = model.exp
        self._observe = model.observe
        # Arguments of the observer's calls that wait for their turn.
        self._seen: list[tuple[str, int, Array]] = []
        # Weights of the op under way, where other runs share them.
        self._read: Mapping[str, Array] | None = None
        self.tokens = tokens
        # Positions of the values' rows: all, and after the last writer those that are wanted.
        self.positions = np.arange(len(tokens))
        self._wanted = wanted
        self.values: dict[str, Array] = {}
        self.caches: dict[int, tuple[Array, Array]] = {}
        self._weights = model.weights

    def select(self) -> None:
        """Keep the rows that are wanted."""
        if self._wanted is not None:
            self.values = {name: rows[self._wanted] for name, rows in self.values.items()}
            self.positions = self._wanted

    def do(self, op: Op, read: Mapping[str, Array] | None, done: Set[str]) -> Array:
        """Value of an op; read: its weights, where other runs share them; done: values that it reads last."""
        self._read = read
        made = _OPS[op.kind](self, op, *(self.values[name] for name in op.ins))
        self._read = None
        self.values[op.out] = made
        for name in done:
            del self.values[name]
        return made

    def see(self, op: Op, role: str, number: int, rows: Array) -> None:
        """Note the rows that matrix `number` of a weight multiplies, if there is an observer."""
        if self._observe is not None:
            self._seen.append((op.weights[role], number, rows))

    def show_seen(self) -> None:
        """Call the observer with what was noted."""
        if self._observe is not None:
            for seen in self._seen:
                self._observe(*seen)
            self._seen.clear()

    def weight(self, op: Op, role: str) -> Array | None:
        name = op.weights.get(role)
        if name is None:
            return None
        shape = self.program.weights[name]
        source = self._weights if self._read is None else self._read
        found = np.asarray(source[name], dtype=np.float32)
        if found.size != math.prod(shape):
            raise ModelError(f"weight {name!r} has shape {found.shape}, expected {shape}")
        return found.reshape(shape)

    def required(self, op: Op, role: str) -> Array:
        found = self.weight(op, role)
        assert found is not None
        return found


def _embed(run: _Run, op: Op) -> Array:
    weight = run.required(op, "weight")
    match op.attrs["source"]:
        case "token":
            return weight[run.tokens[run.positions]]
        case "position":
            if len(run.tokens) > len(weight):
                raise UsageError(
                    f"{len(run.tokens)} tokens, but the model knows only {len(weight)} positions"
                )
            return weight[run.positions]
        case "segment":
            ends = np.cumsum(run.tokens == int(op.attrs["separator"]))
            return weight[np.concatenate(([0], np.minimum(ends[:-1], 1)))[run.positions]]
        case _:
            return np.repeat(weight[:1], len(run.positions), axis=0)


def _norm(run: _Run, op: Op, x: Array) -> Array:
    groups, eps = int(op.attrs["groups"]), float(op.attrs["eps"])
    rows = x.reshape(len(x), groups, -1).astype(np.float64)
    match op.attrs["kind"]:
        case "rms":
            rows = rows / np.sqrt(np.mean(rows**2, axis=-1, keepdims=True) + eps)
        case "layer":
            rows = rows - rows.mean(axis=-1, keepdims=True)
            rows = rows / np.sqrt(np.mean(rows**2, axis=-1, keepdims=True) + eps)
        case _:
            rows = rows / np.maximum(np.sqrt(np.sum(rows**2, axis=-1, keepdims=True)), eps)
    for role, combine in (("weight", np.multiply), ("bias", np.add)):
        vector = run.weight(op, role)
        if vector is not None:
            shape = (groups, -1) if vector.size == x.shape[1] else (1, -1)
            rows = combine(rows, vector.reshape(shape))
    return np.asarray(rows.reshape(x.shape), np.float32)


def _linear(run: _Run, op: Op, x: Array) -> Array:
    run.see(op, "weight", 0, x)
    out = run.multiply(x, run.required(op, "weight"))
    for updates, scale in run.adapters:
        update = updates.get(op.weights["weight"])
        if update is not None:
            a, b = update.a.astype(np.float32), update.b.astype(np.float32)
            out += np.float32(scale * update.scale) * (x @ a.T) @ b.T
    bias = run.weight(op, "bias")
    return out if bias is None else out + bias


def _linear_groups(run: _Run, op: Op, x: Array) -> Array:
    weight = run.required(op, "weight")
    rows = x.reshape(len(x), len(weight), -1)
    for group in range(len(weight)):
        run.see(op, "weight", group, rows[:, group])
    return np.asarray(np.einsum("ngi,goi->ngo", rows, weight).reshape(len(x), -1), np.float32)


def _affine(run: _Run, op: Op, x: Array) -> Array:
    out = x * np.float32(op.attrs["factor"])
    weight, bias = run.weight(op, "weight"), run.weight(op, "bias")
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def _rope(run: _Run, op: Op, x: Array) -> Array:
    table = run.program.tables[str(op.attrs["table"])]
    inv_freq = np.array(table.inv_freq, np.float64)
    factors = run.weight(op, "factors")
    if factors is not None:
        inv_freq = inv_freq / factors.astype(np.float64)
    angles = run.positions[:, None, None] * inv_freq
    cos, sin = np.cos(angles) * table.mscale, np.sin(angles) * table.mscale
    heads = x.reshape(len(x), int(op.attrs["groups"]), -1)
    n = len(inv_freq)
    if op.attrs["kind"] == "neox":
        first, second = slice(0, n), slice(n, 2 * n)
    else:
        first, second = slice(0, 2 * n, 2), slice(1, 2 * n, 2)
    out = heads.copy()
    a, b = heads[..., first].astype(np.float64), heads[..., second].astype(np.float64)
    out[..., first] = a * cos - b * sin
    out[..., second] = b * cos + a * sin
    return out.reshape(x.shape)


def _position_scale(run: _Run, op: Op, x: Array) -> Array:
    turns = run.positions[:, None] // int(op.attrs["length"])
    return x * (1 + float(op.attrs["beta"]) * np.log1p(turns)).astype(np.float32)


def _attention(run: _Run, op: Op, q: Array, k: Array, v: Array) -> Array:
    n = len(q)
    if op.attrs["causal"]:
        spec = run.program.caches[int(op.attrs["cache"])]
        n_kv_heads = spec.n_kv_heads
        run.caches[int(op.attrs["cache"])] = (k, v)
    else:
        n_kv_heads = k.shape[1] // (q.shape[1] // int(op.attrs["n_heads"]))
    return _attend(run, op, q, k.reshape(n, n_kv_heads, -1), v.reshape(n, n_kv_heads, -1))


def _attention_shared(run: _Run, op: Op, q: Array) -> Array:
    n_kv_heads = run.program.caches[int(op.attrs["cache"])].n_kv_heads
    k, v = run.caches[int(op.attrs["cache"])]
    return _attend(run, op, q, k.reshape(len(k), n_kv_heads, -1), v.reshape(len(v), n_kv_heads, -1))


def _attend(run: _Run, op: Op, q: Array, k: Array, v: Array) -> Array:
    """q (n, n_heads * d), k (n_keys, n_kv_heads, d), v (n_keys, n_kv_heads, d_v) -> (n, n_heads * d_v)."""
    n, n_heads = len(q), int(op.attrs["n_heads"])
    queries = q.reshape(n, n_heads, -1)
    sinks = run.weight(op, "sinks")
    ages = run.positions[:, None] - np.arange(len(k))[None, :]
    window = int(op.attrs["window"])
    hidden = np.zeros(ages.shape, bool)
    if op.attrs.get("causal", True):
        hidden = ages < 0
        if window:
            hidden |= ages >= window
    elif window:
        hidden = np.abs(ages) >= window
    bias = biases(op.attrs, ages, run.weight(op, "distance_bias"))
    out = np.empty((n, n_heads, v.shape[2]), np.float32)
    per_kv = n_heads // k.shape[1]
    for h in range(n_heads):
        scores = run.multiply(queries[:, h], k[:, h // per_kv]).astype(np.float64)
        scores *= float(op.attrs["scale"])
        cap = float(op.attrs["softcap"])
        if cap:
            scores = tanh(scores / cap, run.exp) * cap
        if bias is not None:
            scores += bias[h]
        scores[hidden] = -np.inf
        top = scores.max(axis=1, keepdims=True)
        if sinks is not None:
            top = np.maximum(top, float(sinks[h]))
        scores -= top
        p = run.exp(scores)
        total = p.sum(axis=1, keepdims=True)
        if sinks is not None:
            total = total + run.exp(float(sinks[h]) - top)
        p /= total
        out[:, h] = run.multiply(p.astype(np.float32), v[:, h // per_kv].T)
    return out.reshape(n, -1)


def _glu(run: _Run, op: Op, gate: Array, up: Array) -> Array:
    return gated(op.attrs, gate, up, run.exp)


def _activation(run: _Run, op: Op, x: Array) -> Array:
    numbers = {name: float(op.attrs[name]) for name in ("alpha_p", "alpha_n", "beta")}
    return activate(str(op.attrs["fn"]), x, run.exp, numbers=numbers)


def _add(run: _Run, op: Op, a: Array, b: Array) -> Array:
    return a + b


def _mul(run: _Run, op: Op, a: Array, b: Array) -> Array:
    return (a.reshape(*b.shape, -1) * b[..., None]).reshape(a.shape)


def _softcap(run: _Run, op: Op, x: Array) -> Array:
    cap = np.float32(op.attrs["cap"])
    return np.asarray(tanh(x.astype(np.float64) / cap, run.exp) * cap, np.float32)


def _slice(run: _Run, op: Op, x: Array) -> Array:
    start, size = int(op.attrs["start"]), int(op.attrs["size"])
    rows = x.reshape(len(x), int(op.attrs["groups"]), -1)
    return rows[..., start : start + size].reshape(len(x), -1)


def _concat(run: _Run, op: Op, a: Array, b: Array) -> Array:
    groups = int(op.attrs["groups"])

    def parts(x: Array, repeat: Any) -> Array:
        if repeat:
            return np.broadcast_to(x[:, None, :], (len(x), groups, x.shape[1]))
        return x.reshape(len(x), groups, -1)

    both = (parts(a, op.attrs["repeat_a"]), parts(b, op.attrs["repeat_b"]))
    return np.concatenate(both, axis=-1).reshape(len(a), -1)


def _repeat(run: _Run, op: Op, x: Array) -> Array:
    rows, times = x.reshape(len(x), int(op.attrs["groups"]), -1), int(op.attrs["times"])
    out = np.repeat(rows, times, axis=1) if op.attrs["interleave"] else np.tile(rows, (1, times, 1))
    return out.reshape(len(x), -1)


def _moe(run: _Run, op: Op, x: Array, router: Array) -> Array:
    chosen, shares = route(op, router, run.weight(op, "selection_bias"), run.exp)
    scale = run.weight(op, "expert_scale")
    if scale is not None:
        shares = shares * scale[chosen]
    down = run.required(op, "down")
    n_ff = down.shape[2]
    gate: Array | None
    if "gate_up" in op.weights:
        both = run.required(op, "gate_up")
        gate, up = both[:, :n_ff], both[:, n_ff:]
    else:
        gate, up = run.weight(op, "gate"), run.required(op, "up")
    gate_bias, up_bias = run.weight(op, "gate_bias"), run.weight(op, "up_bias")
    down_bias = run.weight(op, "down_bias")
    out = np.zeros_like(x)
    for expert in np.unique(chosen):
        rows, slots = np.nonzero(chosen == expert)
        given = x[rows]
        u = run.multiply(given, up[expert])
        if up_bias is not None:
            u = u + up_bias[expert]
        if gate is None:
            inner = activate(str(op.attrs["activation"]), u, run.exp)
        else:
            g = run.multiply(given, gate[expert])
            inner = gated(op.attrs, g if gate_bias is None else g + gate_bias[expert], u, run.exp)
        for role in ("gate_up", "gate", "up"):
            if role in op.weights:
                run.see(op, role, int(expert), given)
        run.see(op, "down", int(expert), inner)
        y = run.multiply(inner, down[expert])
        if down_bias is not None:
            y = y + down_bias[expert]
        out[rows] += y * shares[rows, slots][:, None]
    return out


def _short_conv(run: _Run, op: Op, x: Array) -> Array:
    weight, bias = run.required(op, "weight"), run.weight(op, "bias")
    n_taps = weight.shape[1]
    padded = np.concatenate((np.zeros((n_taps - 1, x.shape[1]), np.float32), x))
    out = sum((padded[j : j + len(x)] * weight[:, j] for j in range(n_taps)), np.zeros_like(x))
    if bias is not None:
        out = out + bias
    return activate("silu", out, run.exp) if op.attrs["activation"] == "silu" else out


def _gated_delta(run: _Run, op: Op, q: Array, k: Array, v: Array, decay: Array, beta: Array) -> Array:
    n, n_heads, n_key_heads = len(q), int(op.attrs["n_heads"]), int(op.attrs["n_key_heads"])
    h = np.arange(n_heads)
    key_head = h % n_key_heads if op.attrs["tiled"] else h // (n_heads // n_key_heads)
    queries = q.reshape(n, n_key_heads, -1)[:, key_head].astype(np.float64) * float(op.attrs["scale"])
    keys = k.reshape(n, n_key_heads, -1)[:, key_head].astype(np.float64)
    values = v.reshape(n, n_heads, -1).astype(np.float64)
    state = np.zeros((n_heads, keys.shape[2], values.shape[2]))
    out = np.empty_like(values)
    for t in range(n):
        state *= run.exp(decay[t].astype(np.float64))[:, None, None]
        read = np.einsum("hkv,hk->hv", state, keys[t])
        state += keys[t][:, :, None] * (beta[t][:, None] * (values[t] - read))[:, None, :]
        out[t] = np.einsum("hkv,hk->hv", state, queries[t])
    return out.reshape(n, -1).astype(np.float32)


def _ssm(run: _Run, op: Op, x: Array, b: Array, c: Array, dt: Array) -> Array:
    n, n_heads, d_state = len(x), int(op.attrs["n_heads"]), int(op.attrs["d_state"])
    a, d = run.required(op, "a").astype(np.float64), run.required(op, "d").astype(np.float64)
    n_groups = int(op.attrs["n_groups"])
    group = np.arange(n_heads) // (n_heads // n_groups)
    heads = x.reshape(n, n_heads, -1).astype(np.float64)
    bs = b.reshape(n, n_groups, d_state)[:, group].astype(np.float64)
    cs = c.reshape(n, n_groups, d_state)[:, group].astype(np.float64)
    step = np.logaddexp(dt.astype(np.float64) + run.required(op, "dt_bias"), 0.0)
    state = np.zeros((n_heads, heads.shape[2], d_state))
    out = np.empty_like(heads)
    for t in range(n):
        state *= run.exp(step[t] * a)[:, None, None]
        state += (step[t][:, None] * heads[t])[:, :, None] * bs[t][:, None, :]
        out[t] = np.einsum("hps,hs->hp", state, cs[t]) + d[:, None] * heads[t]
    return out.reshape(n, -1).astype(np.float32)


_OPS: dict[str, Callable[..., Array]] = {
    "embed": _embed,
    "norm": _norm,
    "linear": _linear,
    "linear_groups": _linear_groups,
    "affine": _affine,
    "rope": _rope,
    "position_scale": _position_scale,
    "attention": _attention,
    "attention_shared": _attention_shared,
    "glu": _glu,
    "activation": _activation,
    "add": _add,
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
