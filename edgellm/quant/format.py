"""The codec of a format, and the bit unpacking that codecs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.gguf.types import GGMLType

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]
# An array of blocks: (n_blocks,) of the format's block type, a structure for block formats.
Blocks: TypeAlias = NDArray[Any]


class Format(NamedTuple):
    """A storage format and its codec.

    block: the layout of one block as a NumPy structure. decode: (n_blocks,) of `block` to
    (n_blocks, block_size) float32. encode: finite values and importances (both (n_blocks, block_size)
    float32; importances None if there are none) to (n_blocks,) of `block`; None if there is no encoder.
    """

    type: GGMLType
    block: np.dtype[Any]
    decode: Callable[[Blocks], Floats]
    encode: Callable[[Floats, Floats | None], Blocks] | None = None


def column(values: NDArray[Any]) -> Floats:
    """(n,) float16 or float32 scales as (n, 1) float32, to be multiplied with rows."""
    return values.astype(np.float32)[:, None]


def planes(packed: Bytes, bits: int) -> Bytes:
    """(..., m) bytes to (..., 8/bits, m): the lowest bits of all m bytes, then the next ones, and so on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)


def fields(packed: Bytes, bits: int) -> Bytes:
    """(..., m) bytes to (..., m, 8/bits): all fields of the first byte, lowest bits first, and so on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)


def refusal(kind: GGMLType, what: str) -> ModelError:
    """Error for values that a format cannot hold because one is `what`, such as "too large"."""
    return ModelError(
        f"a value is {what}, expected finite values that {kind.name} can hold; "
        "the checkpoint is damaged or needs a format of larger range such as F32"
    )
