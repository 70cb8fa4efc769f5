"""Routers of mixtures of experts, for the interpreter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm.program.activations import Exp, Wide, softmax
from edgellm.program.ops import Op

Array = NDArray[np.float32]


def route(op: Op, router: Array, selection_bias: Array | None, exp: Exp) -> tuple[NDArray[np.int64], Array]:
    """Chosen experts (n, n_used), best first, and their weights (n, n_used)."""
    logits, n_used = router.astype(np.float64), int(op.attrs["n_used"])
    match op.attrs["gating"]:
        case "softmax":
            choice = probs = softmax(logits, exp)
        case "sigmoid":
            choice = probs = 1.0 / (1.0 + exp(-logits))
        case "sparse_mixer":
            choice, probs = logits, _sparse_mixer(logits, float(op.attrs["jitter"]), n_used, exp)
        case _:
            choice = probs = logits
    if selection_bias is not None:
        choice = choice + selection_bias
    n_groups, n_groups_used = int(op.attrs["n_groups"]), int(op.attrs["n_groups_used"])
    if n_groups_used < n_groups:
        groups = choice.reshape(len(choice), n_groups, -1)
        n_best = 1 if op.attrs["group_score"] == "max" else 2
        scores = np.sort(groups, axis=-1)[..., -n_best:].sum(axis=-1)
        keep = np.argsort(-scores, axis=1, kind="stable")[:, :n_groups_used]
        allowed = np.zeros((len(choice), n_groups), bool)
        np.put_along_axis(allowed, keep, True, axis=1)
        choice = np.where(allowed[..., None], groups, -np.inf).reshape(choice.shape)
    chosen = np.argsort(-choice, axis=1, kind="stable")[:, :n_used]
    picked = np.take_along_axis(probs, chosen, axis=1)
    if op.attrs["gating"] == "softmax_chosen":
        picked = softmax(picked, exp)
    if op.attrs["normalize"]:
        picked = picked / picked.sum(axis=1, keepdims=True)
    return chosen, (picked * float(op.attrs["factor"])).astype(np.float32)


def _sparse_mixer(logits: Wide, jitter: float, n_used: int, exp: Exp) -> Wide:
    """Probability of each expert among those that are left when it is chosen, and near it."""
    probs, left = np.zeros_like(logits), logits.copy()
    for _ in range(n_used):
        best = left.argmax(axis=1)[:, None]
        top = np.take_along_axis(left, best, axis=1)
        near = np.where(top - left > 2 * jitter * np.maximum(np.abs(logits), top), -np.inf, left)
        np.put_along_axis(probs, best, np.take_along_axis(softmax(near, exp), best, axis=1), axis=1)
        np.put_along_axis(left, best, -np.inf, axis=1)
    return probs
