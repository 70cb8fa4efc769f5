"""Protocol between the scheduler and an engine: sequences, and steps over tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Tokens or sequences of a step, and its flags for tokens whose logits are needed.
Ids: TypeAlias = Sequence[int]
Flags: TypeAlias = Sequence[bool]
Floats: TypeAlias = "NDArray[np.float32]"
Ints: TypeAlias = "NDArray[np.int32]"
# Matrix (n_rows, n_vocab) f32. Not an array, because a start must not import NumPy before the first token.
Logits: TypeAlias = "memoryview[Any]"


class Backend(Protocol):
    """A loaded model that keeps sequences in a paged cache with blocks of `block_tokens` tokens.

    Appending n tokens to a sequence of L takes ceil((L + n) / block_tokens) - ceil(L / block_tokens) free
    blocks; forking takes `fork_blocks`. Methods raise BackendError. A step that raises has changed nothing.
    """

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_embd(self) -> int: ...

    @property
    def n_ctx(self) -> int:
        """Most tokens of one sequence."""

    @property
    def batch(self) -> int:
        """Most tokens of one step."""

    @property
    def block_tokens(self) -> int: ...

    @property
    def n_blocks(self) -> int:
        """Number of blocks in the cache, used or free."""

    @property
    def free_blocks(self) -> int: ...

    @property
    def recurrent(self) -> bool:
        """True if sequences carry recurrent state: they are forked at full length only, and not truncated."""

    @property
    def windowed(self) -> bool:
        """True if keys and values outside an attention window are dropped: only a late truncation is
        possible.
        """

    @property
    def n_undo(self) -> int:
        """Number of last tokens that `truncate_sequence` can take back without a trace.

        0 for recurrent models, and where the results of a step depend on its number of tokens.
        """

    def open_sequence(self, scales: Sequence[float] = ()) -> int:
        """Open a sequence; scales: the factor of each adapter for its tokens, empty for none."""

    def close_sequence(self, sequence: int) -> None: ...

    def fork_blocks(self, n_tokens: int) -> int:
        """Free blocks that a fork of `n_tokens` tokens takes."""

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        """Open a sequence with the first `n_tokens` of another one, and with its adapters.

        Raises BackendError if their keys, values or states are no longer held, or no block is free.
        """

    def truncate_sequence(self, sequence: int, n_tokens: int) -> None:
        """Drop all but the first `n_tokens`; BackendError as for a fork."""

    def sequence_length(self, sequence: int) -> int: ...

    def step(self, tokens: Ids, sequences: Ids, outputs: Flags, n_largest: int = 0) -> Logits:
        """Append each token to its sequence, in order; logits (n_outputs, n_vocab) where `outputs` is set.

        n_largest: only the n_largest largest logits of each row are exact; the others hold some smaller
        value. 0: all are exact.
        """

    @property
    def unread_bytes(self) -> int:
        """Bytes of weights that steps did not read, because few logits were needed."""

    def hidden(self, tokens: Ids, scales: Sequence[float] = (), lengths: Ids = ()) -> Floats:
        """Last hidden states (n_tokens, width) of a sequence of its own, which is closed again.

        lengths: tokens of each sequence where there are several, one after another; they fit in one step.
        """

    def close(self) -> None: ...


def parts_of(tokens: Ids, lengths: Ids) -> list[Ids]:
    """The tokens of each of several sequences that follow one another."""
    ends = list(accumulate(lengths))
    return [tokens[end - length : end] for end, length in zip(ends, lengths, strict=True)]


@runtime_checkable
class SavingBackend(Backend, Protocol):
    """A backend that saves sequences as bytes and restores them."""

    @property
    def variant(self) -> str:
        """Name of the computing code: equal variants give the same bits for the same tokens."""

    def save_sequence(self, sequence: int) -> bytes:
        """State of a whole sequence, for `restore_sequence` of the same model and variant."""

    def restore_sequence(self, saved: bytes, scales: Sequence[float] = ()) -> int:
        """Open a sequence from saved bytes; BackendError if they do not fit or no block is free."""

    def save_blocks(self, sequence: int, first: int, n_blocks: int) -> bytes:
        """Keys and values of full blocks; BackendError for a recurrent, windowed or too short sequence."""

    def append_blocks(self, sequence: int, saved: bytes) -> None:
        """Append saved blocks to a sequence of full blocks; BackendError, without a change, if they do not
        fit.
        """


def rows_of(logits: Logits, n_tokens: int) -> list[Logits]:
    """Rows of a step's logits, each cut to `n_tokens`, without a copy."""
    n_rows, n_vocab = logits.shape or (0, 0)
    if n_rows == 0:
        return []  # an empty view cannot be cast
    values = logits.cast("B").cast("f")
    return [values[i * n_vocab : i * n_vocab + n_tokens] for i in range(n_rows)]


def blocks_for(length: int, n_tokens: int, block_tokens: int) -> int:
    """Free blocks that appending `n_tokens` to a sequence of `length` tokens takes."""
    return -(-(length + n_tokens) // block_tokens) + (-length // block_tokens)
