"""Activation functions of the interpreter, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import ModelError

Array = NDArray[np.float32]
Wide = NDArray[np.float64]
# Exponentials of values.
Exp = Callable[[Wide], Wide]
_NO_NUMBERS: Mapping[str, float] = MappingProxyType({})


def activate(name: str, x: Array, exp: Exp = np.exp, *, numbers: Mapping[str, float] = _NO_NUMBERS) -> Array:
    """The activation of that name of each value; `xielu` alone has numbers: alpha_p, alpha_n, beta."""
    match name:
        case "silu":
            return x * sigmoid(x, exp)
        case "gelu":
            erf = np.vectorize(math.erf, otypes=[np.float64])
            return np.asarray(0.5 * x * (1.0 + erf(x / math.sqrt(2.0))), np.float32)
        case "gelu_tanh":
            wide = x.astype(np.float64)
            inner = math.sqrt(8.0 / math.pi) * (wide + 0.044715 * wide * wide * wide)
            # (1 + tanh(y)) / 2 is the logistic function of 2 y.
            return np.asarray(wide / (1.0 + exp(-inner)), np.float32)
        case "gelu_quick":
            return x * sigmoid(np.float32(1.702) * x, exp)
        case "relu":
            return np.maximum(x, np.float32(0))
        case "relu2":
            return np.square(np.maximum(x, np.float32(0)))
        case "sigmoid":
            return sigmoid(x, exp)
        case "tanh":
            return np.asarray(tanh(x.astype(np.float64), exp), np.float32)
        case "softplus":
            return np.logaddexp(x, np.float32(0))
        case "exp":
            return np.exp(x)
        case "xielu":
            wide = x.astype(np.float64)
            above, below = np.maximum(wide, 0), np.minimum(wide, 0)
            curve = numbers["alpha_n"] * (exp(below) - 1.0 - below)
            y = numbers["alpha_p"] * above**2 + curve + numbers["beta"] * wide
            return np.asarray(y, np.float32)
        case _:
            raise ModelError(f"unknown activation {name!r}")


def sigmoid(x: Array, exp: Exp = np.exp) -> Array:
    """1 / (1 + exp(-x)), computed in float64."""
    found = exp(np.negative(x, dtype=np.float64))
    found += 1.0
    return np.asarray(np.divide(1.0, found, out=found), np.float32)


def tanh(x: Wide, exp: Exp = np.exp) -> Wide:
    """The hyperbolic tangent; NumPy's own has other last bits on other machines."""
    return np.asarray(1.0 - 2.0 / (1.0 + exp(2.0 * x)))


def gated(attrs: Mapping[str, Any], gate: Array, up: Array, exp: Exp = np.exp) -> Array:
    """activation(gate) * up, or the clamped form of it (`swiglu_oai`)."""
    limit = np.float32(attrs["limit"])
    if attrs["activation"] == "swiglu_oai":
        gate = np.minimum(gate, limit)
        up = np.clip(up, -limit, limit)
        return gate * sigmoid(np.float32(attrs["alpha"]) * gate, exp) * (up + np.float32(1))
    return activate(str(attrs["activation"]), gate, exp) * up


def softmax(x: Wide, exp: Exp = np.exp) -> Wide:
    """Shares of each row's exponentials."""
    e = exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))
