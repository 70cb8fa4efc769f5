"""Buckets of distances between a query and a key, as T5 and MPNet have them, without NumPy at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
