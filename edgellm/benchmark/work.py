"""Work of a model: bytes read and multiply-adds, to which its speed is compared, and by which it is
predicted.

A matrix has as many bytes as in the file. Rotations, norms and activations have no multiply-adds of their
own: together they are a few thousandths of the work. Their operations and values are counted, for
predictions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgellm.engine.kv_types import cached_bytes
from edgellm.program import Program
from edgellm.program.ops import Op

_EXPERT_ROLES = ("gate", "up", "down", "gate_up")
_MATRIX_OPS = ("linear", "linear_groups", "moe")
# The engine splits an output head that is a larger share of the weights, and leaves three of eight bits of
# most codes unread (native/runtime/place.cc). The bounds that this takes cost some of the gain: this share is
# left.
_SPLIT_SHARE = 0.4
_SPLIT_GAIN = 0.2


class FormatWork(NamedTuple):
    """Matrices of one format in a token's step: bytes read, and multiply-adds."""

    n_bytes: float
    macs: float


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one token: bytes of weights and multiply-adds, with the output head apart, and the cache.

    late_macs: the part of body_macs that a prompt's tokens without logits leave out. layers: for each
    attention, bytes of the cache and multiply-adds for each earlier token it attends to, and the window (0:
    unlimited). n_late_layers: the last of them, which such tokens leave out. body, head: the same matrices by
    the name of their format. n_ops: operations of a step. n_values: floats that all operations of a token
    make, without the n_logits logits.
    """

    body_bytes: float
    body_macs: float
    head_bytes: float
    head_macs: float
    layers: tuple[tuple[int, int, int], ...]
    body: Mapping[str, FormatWork]
    head: Mapping[str, FormatWork]
    n_ops: int
    n_values: int
    n_logits: int
    late_macs: float = 0.0
    n_late_layers: int = 0

    def step_bytes(self, lengths: Sequence[int]) -> float:
        """Bytes that one step reads to add a token to each sequence, given their lengths."""
        cache = sum(size * _seen(length, window) for size, _, window in self.layers for length in lengths)
        return self.body_bytes + self.head_bytes + cache

    def token_macs(self) -> float:
        """Multiply-adds with weights for one token with logits."""
        return self.body_macs + self.head_macs

    def prompt_macs(self, n_tokens: int) -> float:
        """Multiply-adds with weights for a prompt whose last token alone has logits."""
        return (self.body_macs - self.late_macs) * n_tokens + self.late_macs + self.head_macs

    def cache_bytes(self, length: int) -> float:
        """Bytes of keys and values that a token reads after `length` tokens, itself included."""
        return sum(size * _seen(length, window) for size, _, window in self.layers)

    def likeliest_head(self) -> Mapping[str, FormatWork]:
        """The output head with the bytes that the search for the likeliest token alone is worth."""
        split = self.head_bytes > _SPLIT_SHARE * (self.head_bytes + self.body_bytes)
        return {
            kind: work._replace(n_bytes=work.n_bytes * (1 - _SPLIT_GAIN))
            if split and kind == "Q8_0"
            else work
            for kind, work in self.head.items()
        }

    def prompt_share(self, n_tokens: int) -> float:
        """Share of its body's multiply-adds that a prompt of `n_tokens` takes."""
        late = self.late_macs / self.body_macs if self.body_macs else 0.0
        return 1 - late + late / n_tokens

    def attention_macs(self, n_tokens: int, n_depth: int, *, every: bool = False) -> float:
        """Multiply-adds of attention for a prompt after `n_depth` tokens.

        every: all of its tokens have logits, not only the last one.
        """
        lengths = range(n_depth + 1, n_depth + n_tokens + 1)
        first_late = len(self.layers) - (0 if every else self.n_late_layers)
        return sum(
            macs * sum(_seen(length, window) for length in (lengths if i < first_late else lengths[-1:]))
            for i, (_, macs, window) in enumerate(self.layers)
        )


def _seen(length: int, window: int) -> int:
    return min(length, window) if window else length


def count_work(
    program: Program, sizes: Mapping[str, int], kv_type: str, formats: Mapping[str, str] | None = None
) -> Work:
    """Count a program's work.

    sizes: bytes of each weight. formats: name of each weight's format; None counts all under one empty name.
    """
    body: dict[str, FormatWork] = defaultdict(lambda: FormatWork(0.0, 0.0))
    head: dict[str, FormatWork] = {}
    late_macs = 0.0
    last = _head(program)
    # Without logits every token's hidden row is the result.
    last_writer = len(program.ops) if program.logits is None else program.last_writer
    layers, n_late_layers = [], 0
    for i, op in enumerate(program.ops):
        if op.kind in _MATRIX_OPS:
            for role, name in op.weights.items():
                shape = program.weights[name]
                used = _used_share(op, program) if role in _EXPERT_ROLES else 1.0
                # A vector goes with its matrix.
                matrix = name if len(shape) > 1 else op.weights.get("weight") or op.weights["down"]
                kind = "" if formats is None else formats[matrix]
                work = FormatWork(sizes[name] * used, math.prod(shape) * used if len(shape) > 1 else 0.0)
                if name == last:
                    head = {kind: work}
                else:
                    seen = body[kind]
                    body[kind] = FormatWork(seen.n_bytes + work.n_bytes, seen.macs + work.macs)
                    late_macs += work.macs if i > last_writer else 0.0
        elif op.kind in ("attention", "attention_shared") and op.attrs.get("causal", True):
            cache = program.caches[int(op.attrs["cache"])]
            n_bytes = cached_bytes(cache, kv_type)
            n_macs = int(op.attrs["n_heads"]) * (cache.key_dim + cache.value_dim)
            layers.append((int(n_bytes), n_macs, int(op.attrs["window"])))
            # The last writer's queries, too, attend only where logits are wanted.
            n_late_layers += i >= last_writer
    return Work(
        body_bytes=sum(work.n_bytes for work in body.values()),
        body_macs=sum(work.macs for work in body.values()),
        late_macs=late_macs,
        head_bytes=sum(work.n_bytes for work in head.values()),
        head_macs=sum(work.macs for work in head.values()),
        layers=tuple(layers),
        n_late_layers=n_late_layers,
        body=dict(body),
        head=head,
        n_ops=len(program.ops),
        n_values=sum(width for value, width in program.widths.items() if value != program.logits),
        n_logits=0 if program.logits is None else program.n_vocab,
    )


def read_shares(program: Program) -> dict[str, float]:
    """Parts of the matrices that a token reads: all of a plain one, of experts' those that it uses."""
    return {
        name: _used_share(op, program) if role in _EXPERT_ROLES else 1.0
        for op in program.ops
        if op.kind in _MATRIX_OPS
        for role, name in op.weights.items()
        if len(program.weights[name]) > 1
    }


def _head(program: Program) -> str | None:
    """Weight of the last matrix before the logits, which may be scaled or capped after it."""
    matrices = [op.weights["weight"] for op in program.ops if op.kind == "linear"]
    return matrices[-1] if program.logits is not None and matrices else None


def _used_share(op: Op, program: Program) -> float:
    """Fraction of a mixture's experts that one token uses; 1 for a plain matrix."""
    return int(op.attrs["n_used"]) / program.weights[op.weights["down"]][0] if op.kind == "moe" else 1.0
