"""Work of a model: bytes read and multiply-adds, to which its speed is compared.

A matrix has as many bytes as in the file. Rotations, norms and activations are left out: together they are a
few thousandths of the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgellm.engine.kv_types import cached_bytes
from edgellm.program import Program
from edgellm.program.ops import Op

_EXPERT_ROLES = ("gate", "up", "down", "gate_up")


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one token: bytes of weights and multiply-adds, with the output head apart, and the cache.

    layers: for each attention, bytes of the cache and multiply-adds for each earlier token it attends to, and
    the window (0: unlimited).
    """

    body_bytes: float
    body_macs: float
    head_bytes: float
    head_macs: float
    layers: tuple[tuple[int, int, int], ...]

    def step_bytes(self, lengths: Sequence[int]) -> float:
        """Bytes that one step reads to add a token to each sequence, given their lengths."""
        cache = sum(size * _seen(length, window) for size, _, window in self.layers for length in lengths)
        return self.body_bytes + self.head_bytes + cache

    def token_macs(self) -> float:
        """Multiply-adds with weights for one token with logits."""
        return self.body_macs + self.head_macs

    def prompt_macs(self, n_tokens: int) -> float:
        """Multiply-adds with weights for a prompt whose last token alone has logits."""
        return self.body_macs * n_tokens + self.head_macs

    def attention_macs(self, n_tokens: int, n_depth: int) -> float:
        """Multiply-adds of attention for a prompt of `n_tokens` after `n_depth` others."""
        lengths = range(n_depth + 1, n_depth + n_tokens + 1)
        return sum(macs * sum(_seen(length, window) for length in lengths) for _, macs, window in self.layers)


def _seen(length: int, window: int) -> int:
    return min(length, window) if window else length


def count_work(program: Program, sizes: Mapping[str, int], kv_type: str) -> Work:
    """Count a program's work.

    sizes: bytes of each weight.
    """
    body_bytes = body_macs = head_bytes = head_macs = 0.0
    head = _head(program)
    layers = []
    for op in program.ops:
        if op.kind in ("linear", "moe"):
            for role, name in op.weights.items():
                shape = program.weights[name]
                used = _used_share(op, program) if role in _EXPERT_ROLES else 1.0
                n_bytes = sizes[name] * used
                macs = math.prod(shape) * used if len(shape) > 1 else 0.0
                if name == head:
                    head_bytes, head_macs = n_bytes, macs
                else:
                    body_bytes, body_macs = body_bytes + n_bytes, body_macs + macs
        elif op.kind in ("attention", "attention_shared") and op.attrs.get("causal", True):
            cache = program.caches[int(op.attrs["cache"])]
            n_bytes = cached_bytes(cache, kv_type)
            n_macs = int(op.attrs["n_heads"]) * (cache.key_dim + cache.value_dim)
            layers.append((int(n_bytes), n_macs, int(op.attrs["window"])))
    return Work(body_bytes, body_macs, head_bytes, head_macs, tuple(layers))


def _head(program: Program) -> str | None:
    """Weight of the last matrix before the logits, which may be scaled or capped after it."""
    matrices = [op.weights["weight"] for op in program.ops if op.kind == "linear"]
    return matrices[-1] if program.logits is not None and matrices else None


def _used_share(op: Op, program: Program) -> float:
    """Fraction of a mixture's experts that one token uses; 1 for a plain matrix."""
    return int(op.attrs["n_used"]) / program.weights[op.weights["down"]][0] if op.kind == "moe" else 1.0
