"""Low-rank adapters of a program's linears: y = x @ W.T + scale * (x @ A.T) @ B.T.

Hu et al. 2021, "LoRA" (arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from edgellm.errors import ModelError, UnsupportedError
from edgellm.program.ops import Program

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Half: TypeAlias = "NDArray[np.float32] | NDArray[np.float16]"


class Update(NamedTuple):
    """scale * b @ a, added to a weight (n_out, n_in); a: (rank, n_in), b: (n_out, rank)."""

    a: Half
    b: Half
    scale: float

    @property
    def n_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


class Adapter(NamedTuple):
    """Updates of one adapter, by the names of the program's weights."""

    updates: Mapping[str, Update]

    @property
    def n_bytes(self) -> int:
        return sum(update.n_bytes for update in self.updates.values())


def linear_weights(program: Program) -> set[str]:
    """Weights that adapters may change: matrices that only multiply rows."""
    uses: dict[str, set[str]] = {}
    for op in program.ops:
        for role, name in op.weights.items():
            uses.setdefault(name, set()).add(f"{op.kind}.{role}")
    return {name for name, found in uses.items() if found == {"linear.weight"}}


def check_adapter(adapter: Adapter, program: Program) -> None:
    """Raise unless each update belongs to a matrix that only multiplies rows.

    ModelError for a missing weight, another shape, or values that are not finite; UnsupportedError for
    embeddings, experts and other weights with another use.
    """
    import numpy as np

    linears = linear_weights(program)
    for name, update in adapter.updates.items():
        shape = program.weights.get(name)
        if shape is None and name == "output.weight":
            raise UnsupportedError(
                f"it changes the head {name!r}, which this {program.family} model shares with its embedding, "
                "expected changes of linear layers only"
            )
        if shape is None:
            raise ModelError(
                f"it changes {name[:80]!r}, which this {program.family} model does not have; "
                "it is another model's"
            )
        if name not in linears:
            raise UnsupportedError(
                f"it changes {name[:80]!r}, which is not the matrix of a linear layer alone, expected those "
                "only; merge it with `edgellm convert BASE OUT --lora`"
            )
        rank = len(update.a)
        if update.a.ndim != 2 or update.b.ndim != 2 or update.b.shape[1] != rank or rank == 0:
            raise ModelError(
                f"A {update.a.shape} and B {update.b.shape} of {name[:80]!r} do not belong together, "
                "expected one rank; fetch it again"
            )
        found = (len(update.b), update.a.shape[1])
        if found != shape:
            raise ModelError(
                f"it changes {name[:80]!r} of shape {found}, and the model's has {shape}; "
                "it is another model's"
            )
        if not (np.isfinite(update.a).all() and np.isfinite(update.b).all() and np.isfinite(update.scale)):
            raise ModelError(
                f"it holds a value for {name[:80]!r} that is not finite, expected numbers; fetch it again"
            )
