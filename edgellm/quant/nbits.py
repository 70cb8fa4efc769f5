"""Numbers of 4, 5, 6 and 8 bits in blocks of 32, as ONNX Runtime's MatMulNBits multiplies them.

Value: scale * (q - 2^(bits - 1)), q in 0 .. 2^bits - 1. A block's scale is that of its row times the square
of a signed byte over 128, with the byte's sign: 8 bits instead of 32, and as exact for small scales as for
large ones. MatMulNBits knows 4 and 8 bits: codes of 5 and 6 are the upper bits of 8. GGUF has no such
formats.

Codes of 5 and 6 bits are stored so that a graph makes 8 of them with few and small arrays in between. A block
is cut in parts. The codes of the first ones are the upper bits of bytes, and the lower bits of these give the
codes of the others: see `SPARE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import ModelError
from edgellm.quant.feedback import Feedback

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Halves = NDArray[np.float16]

# Values that share a scale.
BLOCK = 32
# Largest byte of a scale, and what the largest scale that a row's own values ask for may be multiplied by:
# errors that were passed on make values larger.
_ONE, _ROOM = 128, 1.3
_LAYOUT = np.dtype([("root", "i1"), ("codes", "u1", BLOCK)])
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)

# Codes of further parts of a block, by bits of a code: the upper bits of P[i] << shift for each of the pairs
# (i, shift), exclusive or. P[i] are the bytes of the parts before; their lower bits are chosen for it. A
# bit's pair of largest shift is the one whose bit is chosen.
SPARE: dict[int, tuple[tuple[tuple[int, int], ...], ...]] = {
    5: (((0, 5), (1, 2)), ((2, 5), (3, 2)), ((4, 5), (1, 4), (3, 3))),
    6: (((0, 6), (1, 4), (2, 2)),),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Storage of a matrix, by the bits of its codes."""

    bits: int

    @property
    def name(self) -> str:
        """Name for users: int and the bits."""
        return f"int{self.bits}"

    @property
    def run_bits(self) -> int:
        """Bits of the codes that MatMulNBits gets."""
        return 4 if self.bits == 4 else 8

    @property
    def number(self) -> int:
        """Number in the extension module; those of GGUF are small."""
        return 1000 + self.bits

    @property
    def n_parts(self) -> int:
        """Arrays that hold the codes."""
        return 1 + max((i for pairs in SPARE.get(self.bits, ()) for i, _ in pairs), default=0)

    @property
    def part_bytes(self) -> int:
        """Bytes of a block in each of them."""
        return BLOCK * self.bits // 8 // self.n_parts

    def n_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a matrix: codes, scales of blocks and of rows."""
        rows, cols = prod(shape[:-1]), shape[-1]
        return rows * (cols * self.bits // 8 + cols // BLOCK + 2)


KINDS = {kind.name: kind for kind in map(Kind, (4, 5, 6, 8))}


class Encoded(NamedTuple):
    """A matrix (rows, cols), cols a multiple of 32.

    parts: the kind's, each (rows, cols / 32, part_bytes). roots: (rows, cols / 32), bytes of the
    blocks' scales. units: (rows, 1), of the rows. error, power: (weighted) sums of square
    differences and of squares.
    """

    parts: list[Bytes]
    roots: NDArray[np.int8]
    units: Halves
    error: float
    power: float


def encode(
    kind: Kind,
    values: Floats,
    importance: Floats | None = None,
    feedback: Feedback | None = None,
    *,
    threads: int,
    scalar: bool = False,
) -> Encoded:
    """Scales are searched for the least (weighted) square error.

    importance: (cols,), not negative, finite; None: all the same. feedback: of the matrix's inputs, for
    blocks of 32; None: without. scalar: without the machine's instruction sets. Raises ModelError for values
    that are NaN, infinite or too large, ValueError for rows that are not whole blocks.
    """
    from edgellm import _native

    values = np.ascontiguousarray(values, np.float32)
    rows, cols = values.shape
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    if not np.isfinite(largest).all():
        raise ModelError("a value is NaN or infinite; the weights are damaged")
    wide = largest * np.float32(_ROOM / (1 << (kind.run_bits - 1)))
    if (wide > np.finfo(np.float16).max).any():
        raise ModelError(f"a value is too large for {kind.name}; store the model as F32")
    units = np.maximum(wide, _SMALLEST).astype(np.float16)
    # Codes of 5 and 6 bits are multiplied as 8: their steps are so many of the units.
    steps = units.astype(np.float32) * np.float32(1 << (kind.run_bits - kind.bits))
    scaled = values / steps
    try:
        if feedback is None:
            raw = _native.quantize(kind.number, scaled, importance, threads, scalar)
        else:
            raw = feedback.encode_as(kind.number, values.size // BLOCK * _LAYOUT.itemsize, scaled)
    except ArithmeticError as error:
        raise ModelError(f"a value is {error}; the weights are damaged") from None
    off = _native.dequantize(kind.number, raw, values.size, threads).reshape(rows, cols)
    off *= steps
    off -= values
    blocks = raw.view(_LAYOUT).reshape(rows, -1)
    weights = np.ones(cols, np.float64) if importance is None else importance.astype(np.float64)
    return Encoded(
        _packed(kind, blocks["codes"].reshape(rows, -1, BLOCK)),
        np.ascontiguousarray(blocks["root"]),
        units,
        *(float(np.square(each, dtype=np.float64).sum(axis=0) @ weights) for each in (off, values)),
    )


def decode(kind: Kind, encoded: Encoded) -> Floats:
    """The values (rows, cols)."""
    codes = _unpacked(kind, encoded.parts).astype(np.float32)
    roots = encoded.roots.astype(np.float32) / _ONE
    scales = roots * np.abs(roots) * encoded.units * np.float32(1 << (kind.run_bits - kind.bits))
    found = (codes - np.float32(1 << (kind.bits - 1))) * scales[..., None]
    return np.asarray(found, np.float32).reshape(len(roots), -1)


def _packed(kind: Kind, codes: Bytes) -> list[Bytes]:
    """Parts of codes (rows, n_blocks, block)."""
    if kind.bits == 8:
        return [codes]
    if kind.bits == 4:
        return [np.asarray(codes[..., 0::2] | codes[..., 1::2] << 4, np.uint8)]
    spare, low = SPARE[kind.bits], 8 - kind.bits
    whole = np.split(codes << low, kind.n_parts + len(spare), axis=-1)
    parts, others = whole[: kind.n_parts], whole[kind.n_parts :]
    for pairs, other in zip(spare, others, strict=True):
        for bit in range(low, 8):
            wrong = (_spare(parts, pairs) ^ other) >> bit & 1
            i, shift = max((pair for pair in pairs if pair[1] <= bit), key=lambda pair: pair[1])
            parts[i] = parts[i] | wrong << (bit - shift)
    return parts


def _unpacked(kind: Kind, parts: list[Bytes]) -> Bytes:
    if kind.bits == 8:
        return parts[0]
    if kind.bits == 4:
        return np.stack((parts[0] & 15, parts[0] >> 4), axis=-1).reshape(*parts[0].shape[:2], -1)
    others = [_spare(parts, pairs) for pairs in SPARE[kind.bits]]
    return np.asarray(np.concatenate([*parts, *others], axis=-1) >> (8 - kind.bits), np.uint8)


def _spare(parts: list[Bytes], pairs: tuple[tuple[int, int], ...]) -> Bytes:
    found = np.zeros_like(parts[0])
    for i, shift in pairs:
        found ^= parts[i] << shift
    return found
