"""Steps from checkpoint tensors to tensors of a GGUF file.

A step takes the arrays of its sources and returns one array. `shape` computes the result's shape from the
sources' shapes alone, so that a file's header is written before any weight is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

Shape = tuple[int, ...]


class Transform(Protocol):
    """One step from source arrays to an array."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the result; ValueError if the sources' shapes do not fit."""
        ...

    def apply(self, arrays: Sequence[Array]) -> Array:
        """The result."""
        ...


class Copy:
    """The one source, unchanged."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0]


class Constant(NamedTuple):
    """Values without a source."""

    values: tuple[float, ...]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return (len(self.values),)

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return np.array(self.values, np.float32)


class AddOne:
    """x + 1, for norm weights that are stored as their distance from 1."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0] + 1


class NegExp:
    """-exp(x), for a state's decay that is stored as its logarithm."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return np.asarray(-np.exp(arrays[0]), np.float32)


class Transpose:
    """Swap the last two dimensions."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if len(shape) < 2:
            raise ValueError(f"shape {shape}, expected at least 2 dimensions")
        return (*shape[:-2], shape[-1], shape[-2])

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].swapaxes(-1, -2)


class Oriented(NamedTuple):
    """Stacked matrices of `rows` x `columns`, transposed if the source has them the other way round."""

    rows: int
    columns: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if len(shape) != 3 or sorted(shape[1:]) != sorted((self.rows, self.columns)):
            raise ValueError(f"shape {shape}, expected matrices of {self.rows} x {self.columns}")
        return (shape[0], self.rows, self.columns)

    def apply(self, arrays: Sequence[Array]) -> Array:
        (x,) = arrays
        return x if x.shape[1:] == (self.rows, self.columns) else x.swapaxes(1, 2)


class Reshape(NamedTuple):
    """The same values in another shape; one size may be -1."""

    to: Shape

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        total = prod(shapes[0])
        known = prod(n for n in self.to if n != -1)
        full = tuple(total // known if n == -1 else n for n in self.to)
        if prod(full) != total:
            raise ValueError(f"shape {shapes[0]}, expected {prod(full)} values")
        return full

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].reshape(self.to)


class Pairs(NamedTuple):
    """Reorder the rows of each head from (first halves, second halves) to RoPE's interleaved pairs."""

    n_heads: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        if shapes[0][0] % (2 * self.n_heads):
            raise ValueError(f"shape {shapes[0]}, expected rows for {self.n_heads} heads of even size")
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        (x,) = arrays
        halves = x.reshape(self.n_heads, 2, x.shape[0] // self.n_heads // 2, *x.shape[1:])
        return halves.swapaxes(1, 2).reshape(x.shape)


class GroupRows(NamedTuple):
    """Rows start .. start+size of each of `groups` equal groups of rows."""

    groups: int
    start: int
    size: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if shape[0] % self.groups or self.start + self.size > shape[0] // self.groups:
            raise ValueError(
                f"shape {shape}, expected {self.groups} groups of at least {self.start + self.size} rows"
            )
        return (self.groups * self.size, *shape[1:])

    def apply(self, arrays: Sequence[Array]) -> Array:
        (x,) = arrays
        rows = x.reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:])
        return rows[:, self.start : self.start + self.size].reshape(-1, *x.shape[1:])


class Every(NamedTuple):
    """Every `step`-th index from `start` on along the axis `axis`."""

    start: int
    step: int
    axis: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        shape = list(shapes[0])
        if shape[self.axis] % self.step:
            raise ValueError(f"shape {shapes[0]}, expected a multiple of {self.step} along axis {self.axis}")
        shape[self.axis] //= self.step
        return tuple(shape)

    def apply(self, arrays: Sequence[Array]) -> Array:
        (x,) = arrays
        index: list[slice] = [slice(None)] * x.ndim
        index[self.axis] = slice(self.start, None, self.step)
        return x[tuple(index)]


class Half(NamedTuple):
    """The first or the second half along an axis."""

    which: Literal["first", "second"]
    axis: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        shape = list(shapes[0])
        if shape[self.axis] % 2:
            raise ValueError(f"shape {shapes[0]}, expected an even size along axis {self.axis}")
        shape[self.axis] //= 2
        return tuple(shape)

    def apply(self, arrays: Sequence[Array]) -> Array:
        (x,) = arrays
        half = x.shape[self.axis] // 2
        index: list[slice] = [slice(None)] * x.ndim
        index[self.axis] = slice(0, half) if self.which == "first" else slice(half, None)
        return x[tuple(index)]


class Tile(NamedTuple):
    """Reorder heads along an axis: from all of one key head together, to one of each key head in turn.

    The last `n_keys` * `per_key` * `size` indices are heads; earlier indices stay.
    """

    n_keys: int
    per_key: int
    size: int
    axis: int = 0

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        if shapes[0][self.axis] < self.n_keys * self.per_key * self.size:
            raise ValueError(f"shape {shapes[0]}, expected {self.n_keys * self.per_key} heads of {self.size}")
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        (x,) = arrays
        total = self.n_keys * self.per_key * self.size
        first = x.shape[self.axis] - total
        order = np.arange(total).reshape(self.n_keys, self.per_key, self.size).swapaxes(0, 1).reshape(-1)
        return np.take(x, np.concatenate((np.arange(first), first + order)), axis=self.axis)


class Stack:
    """All sources along a new first axis."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"shapes {sorted(set(shapes))}, expected all the same")
        return (len(shapes), *shapes[0])

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return np.stack(arrays)


class Product(NamedTuple):
    """Product of the first source with the second matrix or with its transpose."""

    transposed: bool

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        first, second = shapes
        inner, outer = (1, 0) if self.transposed else (0, 1)
        if len(first) != 2 or len(second) != 2 or first[1] != second[inner]:
            raise ValueError(f"shapes {first} and {second} of a product")
        return (first[0], second[outer])

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        first, second = (array.astype(np.float64) for array in arrays)
        return np.asarray(first @ (second.T if self.transposed else second), np.float32)


class Concat(NamedTuple):
    """Rows of several steps' results over the same sources, one after another."""

    parts: tuple[Transform, ...]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        all_shapes = [part.shape(shapes) for part in self.parts]
        return (sum(shape[0] for shape in all_shapes), *all_shapes[0][1:])

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return np.concatenate([part.apply(arrays) for part in self.parts])


class Chain(NamedTuple):
    """Steps applied one after another."""

    steps: tuple[Transform, ...]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        for step in self.steps:
            shapes = (step.shape(shapes),)
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        for step in self.steps:
            arrays = (step.apply(arrays),)
        return arrays[0]


class Scale(NamedTuple):
    """x times a factor."""

    factor: float

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return arrays[0] * np.float32(self.factor)


class ScaleRows(NamedTuple):
    """Sections of rows, each times a factor of its own."""

    sizes: tuple[int, ...]
    factors: tuple[float, ...]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        if shapes[0][0] != sum(self.sizes):
            raise ValueError(f"shape {shapes[0]}, expected {sum(self.sizes)} rows")
        return shapes[0]

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        factors = np.repeat(np.asarray(self.factors, np.float32), self.sizes)
        return arrays[0] * factors.reshape(-1, *(1,) * (arrays[0].ndim - 1))
