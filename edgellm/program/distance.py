"""Biases of attention by the distance of query and key, T5's buckets and ALiBi, without NumPy at import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Boundaries between buckets are powers, whose logarithms need not be exact.
_SLACK = 1e-6


def distance_buckets(ages: NDArray[np.int64], n_buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Bucket of each distance `position of the query - position of the key` (any shape).

    The second half of the buckets is for later keys. Of each half, one half is for single distances, and the
    others widen up to max_distance (arXiv 1910.10683, section 2.1).
    """
    import numpy as np

    half = n_buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(ages), exact)
    steps = np.log(far / exact) / np.log(max_distance / exact) * (half - exact)
    wide = np.minimum(exact + np.floor(steps + _SLACK).astype(np.int64), half - 1)
    found = np.where(np.abs(ages) < exact, np.abs(ages), wide) + half * (ages < 0)
    return np.asarray(found, np.int64)


def slopes(n_heads: int, max_bias: float) -> tuple[float, ...]:
    """Slopes (n_heads,) of ALiBi, by which logits fall with distance (arXiv 2108.12409).

    They are powers of 2^(-max_bias / n), n the largest power of 2 up to n_heads; heads past n take those
    half-way between.
    """
    n = 1 << (n_heads.bit_length() - 1)
    exponents = [(h + 1) / n if h < n else (2 * (h - n) + 1) / (2 * n) for h in range(n_heads)]
    return tuple(2.0 ** (-max_bias * exponent) for exponent in exponents)


def biases(
    attrs: Mapping[str, Any], ages: NDArray[np.int64], table: NDArray[np.float32] | None
) -> NDArray[Any] | None:
    """Biases (n_heads, n_queries, n_keys) of the logits of an attention op; None if it has none.

    ages: position of the query - position of the key (n_queries, n_keys). table: its `distance_bias`.
    """
    import numpy as np

    if table is not None:
        buckets = distance_buckets(ages, len(table), int(attrs["max_distance"]))
        return np.moveaxis(table[buckets], -1, 0)
    max_bias = float(attrs.get("max_bias", 0.0))
    if not max_bias:
        return None
    per_token = float(attrs["bias_scale"]) * np.array(slopes(int(attrs["n_heads"]), max_bias))
    return -per_token[:, None, None] * np.abs(ages)
