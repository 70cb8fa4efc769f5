"""Each step's result has the shape it announces, and the values where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.families.transforms import (
    AddOne,
    Chain,
    Concat,
    Constant,
    Copy,
    Every,
    GroupRows,
    Half,
    NegExp,
    Pairs,
    Reshape,
    Stack,
    Tile,
    Transform,
    Transpose,
)

X = np.arange(48, dtype=np.float32).reshape(12, 4)


@pytest.mark.parametrize(
    ("step", "arrays"),
    [
        (Copy(), [X]),
        (Constant((1.0, 2.0)), []),
        (AddOne(), [X]),
        (NegExp(), [X]),
        (Transpose(), [X.reshape(2, 6, 4)]),
        (Reshape((2, 6, -1)), [X]),
        (Pairs(3), [X]),
        (Pairs(3), [X[:, 0]]),
        (GroupRows(3, 1, 2), [X]),
        (Every(1, 2, 1), [X]),
        (Half("second", 0), [X]),
        (Tile(2, 3, 2), [X]),
        (Tile(2, 2, 1, 1), [X]),
        (Stack(), [X, X, X]),
        (Concat((GroupRows(3, 0, 1), GroupRows(3, 2, 2))), [X]),
        (Chain((Transpose(), Every(0, 2, 1))), [X]),
    ],
)
def test_announced_shape_is_the_result_s(step: Transform, arrays: list[NDArray[np.float32]]) -> None:
    out = step.apply(arrays)
    assert out.shape == step.shape([array.shape for array in arrays])
    assert out.dtype == np.float32


def test_pairs_put_halves_side_by_side() -> None:
    rows = Pairs(2).apply([X])[:, 0] / 4
    assert rows.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_tile_turns_grouped_heads_into_turns() -> None:
    rows = Tile(2, 2, 2).apply([X])[:, 0] / 4
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]


def test_group_rows_and_concat_gather_parts() -> None:
    rows = Concat((GroupRows(3, 0, 1), GroupRows(3, 2, 2))).apply([X])[:, 0] / 4
    assert rows.tolist() == [0, 4, 8, 2, 3, 6, 7, 10, 11]


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (Transpose(), (3,)),
        (Reshape((5, -1)), (3, 4)),
        (Pairs(2), (6, 2)),
        (GroupRows(5, 0, 1), (12, 4)),
        (GroupRows(3, 3, 2), (12, 4)),
        (Every(0, 2, 1), (4, 3)),
        (Half("first", 0), (3, 4)),
        (Tile(2, 2, 4), (12, 4)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(step: Transform, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        step.shape([shape])


def test_stack_refuses_sources_of_two_shapes() -> None:
    with pytest.raises(ValueError, match="expected all the same"):
        Stack().shape([(2, 3), (3, 2)])
