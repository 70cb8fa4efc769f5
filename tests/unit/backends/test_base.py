"""The logits of a step, row by row."""

from __future__ import annotations

import numpy as np

from edgellm.backends.base import rows_of


def test_rows_lie_where_the_matrix_does() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows = rows_of(matrix.data, 4)
    matrix[1, 2] = -1.0
    assert [row.tolist() for row in rows] == matrix.tolist()
    assert [row.tolist() for row in rows_of(matrix.data, 3)] == matrix[:, :3].tolist()


def test_a_step_without_outputs_has_no_rows() -> None:
    assert rows_of(np.empty((0, 4), np.float32).data, 4) == []
