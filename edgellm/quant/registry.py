"""All formats by type, and decoding and encoding of whole tensors, a bounded number of blocks at a time."""

from __future__ import annotations

from math import prod

import numpy as np

from edgellm.errors import UnsupportedError
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant import i_quants, k_quants, native, plain, simple, ternary
from edgellm.quant.format import Blocks, Bytes, Floats, Format, refusal

FORMATS: dict[GGMLType, Format] = {
    format.type: format
    for module in (plain, simple, k_quants, i_quants, ternary)
    for format in module.FORMATS
}

# Values decoded or encoded at a time: temporaries stay in the cache and below a few megabytes.
_CHUNK_VALUES = 1 << 16


def decode(kind: GGMLType, raw: Bytes, shape: tuple[int, ...]) -> Floats:
    """The values of a tensor: `raw` (n_bytes,) uint8 as in the file, to float32 of `shape`.

    Raises ValueError if `raw` does not have the size that type and shape need.
    """
    layout = LAYOUTS[kind]
    n_values = prod(shape)
    if n_values % layout.block_size or raw.size != n_values // layout.block_size * layout.block_bytes:
        raise ValueError(f"{raw.size} bytes are not a {kind.name} tensor of shape {shape}")
    format = FORMATS[kind]
    blocks = np.ascontiguousarray(raw).reshape(-1).view(format.block)
    out = np.empty((blocks.size, layout.block_size), np.float32)
    step = max(1, _CHUNK_VALUES // layout.block_size)
    # Garbage scales (NaN, infinity) give garbage values, as the format says; the caller judges them.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, blocks.size, step):
            out[start : start + step] = format.decode(blocks[start : start + step])
    return out.reshape(shape)


def encode(kind: GGMLType, values: Floats, importance: Floats | None = None) -> Bytes:
    """The bytes of a tensor: (n_bytes,) uint8 from values of any shape whose rows are whole blocks.

    `importance` weighs the square error of each value: of the same shape, or one row for all. Formats that
    store each value alone, and Q8_0, do not need it. Formats without a NumPy encoder take the native one,
    with one row for all. Raises UnsupportedError for a format without encoder, ModelError for values that the
    format cannot hold (NaN, or too large), ValueError for rows that are not whole blocks.
    """
    format = FORMATS[kind]
    size = LAYOUTS[kind].block_size
    if format.encode is None and kind in native.ENCODERS:
        matrix = values.reshape(-1, values.shape[-1])
        return native.encode_rows(kind, matrix, importance, threads=1)
    if format.encode is None:
        writable = ", ".join(
            kind.name for kind in GGMLType if FORMATS[kind].encode or kind in native.ENCODERS
        )
        raise UnsupportedError(
            f"the format {kind.name} can be read but not written, expected one of {writable}; choose another"
        )
    if values.ndim and values.shape[-1] % size:
        raise ValueError(f"rows of {values.shape[-1]} values are not whole {kind.name} blocks of {size}")
    if importance is not None and importance.shape not in (values.shape, values.shape[-1:]):
        raise ValueError(f"importances of shape {importance.shape} do not fit values of shape {values.shape}")
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, size)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32).reshape(-1, size)
    blocks = np.empty(len(rows), format.block)
    step = max(1, _CHUNK_VALUES // size)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        if size > 1 and not np.isfinite(chunk).all():
            raise refusal(kind, "NaN or infinite")
        chosen = None if weights is None else weights[np.arange(start, start + len(chunk)) % len(weights)]
        encoded = format.encode(chunk, chosen)
        if _overflowed(format, chunk, encoded):
            raise refusal(kind, "too large")
        blocks[start : start + step] = encoded
    return blocks.view(np.uint8)


def _overflowed(format: Format, values: Floats, blocks: Blocks) -> bool:
    """True if finite values became infinite: in the scales of blocks, or themselves."""
    names = blocks.dtype.names
    if names is None:
        return bool((np.isinf(format.decode(blocks)) & np.isfinite(values)).any())
    return not all(np.isfinite(blocks[name]).all() for name in ("d", "m") if name in names)
