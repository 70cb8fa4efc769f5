"""What an engine has to offer to the scheduler: sequences, and steps over tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Of a step: tokens or sequences, and whether logits are wanted.
Ids: TypeAlias = Sequence[int]
Flags: TypeAlias = Sequence[bool]
Floats: TypeAlias = "NDArray[np.float32]"
Ints: TypeAlias = "NDArray[np.int32]"
# A matrix (n_rows, n_vocab) f32. Not an array: a start to the first token has no time to import NumPy.
Logits: TypeAlias = "memoryview[Any]"


class Backend(Protocol):
    """A loaded model that keeps sequences in a paged cache of `block_tokens`-token blocks.

    Appending n tokens to a sequence of L takes ceil((L + n) / block_tokens) - ceil(L / block_tokens) free
    blocks; forking takes `fork_blocks`. Methods raise BackendError, and a step that raises has changed
    nothing.
    """

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_embd(self) -> int: ...

    @property
    def n_ctx(self) -> int:
        """The longest a sequence may become, in tokens."""

    @property
    def batch(self) -> int:
        """The most tokens one step may take."""

    @property
    def block_tokens(self) -> int: ...

    @property
    def n_blocks(self) -> int:
        """Blocks in the cache, used or not."""

    @property
    def free_blocks(self) -> int: ...

    @property
    def recurrent(self) -> bool:
        """Sequences carry recurrent state: they can be forked only at full length, and not truncated."""

    @property
    def windowed(self) -> bool:
        """Keys and values that have left an attention window are dropped: only a late cut is possible."""

    @property
    def n_undo(self) -> int:
        """How many tokens a step may try, and `truncate_sequence` take back, without a trace of them.

        0 for recurrent models, and where a step's results depend on how many tokens it has.
        """

    def open_sequence(self, scales: Sequence[float] = ()) -> int:
        """A new sequence; `scales`: the factor of each adapter that its tokens see, or empty for none."""

    def close_sequence(self, sequence: int) -> None: ...

    def fork_blocks(self, n_tokens: int) -> int:
        """The free blocks that a fork of `n_tokens` tokens takes."""

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        """A new sequence that begins with the first `n_tokens` of another, and uses the same adapters.

        Raises BackendError if their keys, values or states are no longer held, or no block is free.
        """

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        """Forget all but the first `n_tokens`; BackendError as for a fork."""

    def sequence_length(self, sequence: int) -> int: ...

    def step(self, tokens: Ids, sequences: Ids, outputs: Flags, n_largest: int = 0) -> Logits:
        """Append each token to its sequence, in order; logits (n_outputs, n_vocab) where `outputs` is set.

        n_largest: so many of each row's largest logits are wanted, and others may be anything below them.
        0: all.
        """

    @property
    def unread_bytes(self) -> int:
        """Bytes of weights that steps have not had to read so far, because few logits were wanted."""

    def hidden(self, tokens: Ids, scales: Sequence[float] = ()) -> Floats:
        """The last hidden state (n_tokens, n_embd) of a sequence of its own, which is closed again."""

    def close(self) -> None: ...


@runtime_checkable
class SavingBackend(Backend, Protocol):
    """A backend that can give what its sequences remember as bytes, and take it back."""

    @property
    def variant(self) -> str:
        """What computes: the same tokens give the same bits where it is the same."""

    def save_sequence(self, sequence: int) -> bytes:
        """All that a sequence remembers, for `restore_sequence` of the same model and variant."""

    def restore_sequence(self, saved: bytes, scales: Sequence[float] = ()) -> int:
        """A new sequence out of saved bytes; BackendError if they do not fit or no block is free."""

    def save_blocks(self, sequence: int, first: int, n_blocks: int) -> bytes:
        """The keys and values of full blocks; BackendError if it is recurrent, windowed, or too short."""

    def append_blocks(self, sequence: int, saved: bytes) -> None:
        """Append saved blocks to a sequence of full blocks; BackendError, and no change, if it cannot be."""


def rows_of(logits: Logits, n_tokens: int) -> list[Logits]:
    """The first `n_tokens` logits of each row of a step's, in place."""
    n_rows, n_vocab = logits.shape or (0, 0)
    if n_rows == 0:
        return []  # what is empty cannot be cast
    values = logits.cast("B").cast("f")
    return [values[i * n_vocab : i * n_vocab + n_tokens] for i in range(n_rows)]


def blocks_for(length: int, n_tokens: int, block_tokens: int) -> int:
    """The free blocks that appending `n_tokens` to a sequence of `length` tokens takes."""
    return -(-(length + n_tokens) // block_tokens) + (-length // block_tokens)
