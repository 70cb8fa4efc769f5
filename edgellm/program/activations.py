"""Activation functions of the interpreter, in NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import ModelError

Array = NDArray[np.float32]


def activate(name: str, x: Array) -> Array:
    """The activation of that name of each value."""
    match name:
        case "silu":
            return x * sigmoid(x)
        case "gelu":
            erf = np.vectorize(math.erf, otypes=[np.float64])
            return np.asarray(0.5 * x * (1.0 + erf(x / math.sqrt(2.0))), np.float32)
        case "gelu_tanh":
            inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
            return np.asarray(0.5 * x * (1.0 + np.tanh(inner)), np.float32)
        case "gelu_quick":
            return x * sigmoid(np.float32(1.702) * x)
        case "relu":
            return np.maximum(x, np.float32(0))
        case "relu2":
            return np.square(np.maximum(x, np.float32(0)))
        case "sigmoid":
            return sigmoid(x)
        case "tanh":
            return np.tanh(x)
        case "softplus":
            return np.logaddexp(x, np.float32(0))
        case "exp":
            return np.exp(x)
        case _:
            raise ModelError(f"unknown activation {name!r}")


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), computed in float64."""
    return np.asarray(1.0 / (1.0 + np.exp(-x.astype(np.float64))), np.float32)
