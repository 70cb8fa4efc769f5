"""The bytes of GGUF metadata values, and the types that values get where nobody says.

Source: the GGUF specification (ggml repository, docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgellm.gguf.metadata import SCALARS
from edgellm.gguf.types import ValueType

Writable: TypeAlias = "bool | int | float | str | Sequence[Writable] | NDArray[np.generic] | np.generic"


def encode_string(text: str) -> bytes:
    """A length-prefixed UTF-8 string; UnicodeEncodeError, a ValueError, for a lone surrogate."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_value(value: Writable, kind: ValueType | None = None) -> tuple[ValueType, bytes]:
    """The type and the bytes of a value; `kind` is its type or, for an array, that of its elements.

    Without `kind`: whole numbers become UINT32, INT32 if negative, in a list INT32, each 64 bits wide where
    they must; floats FLOAT32; a NumPy array keeps its type.
    Raises ValueError where the type cannot hold the value or an empty list has no type, TypeError for a
    value that GGUF has no type for.
    """
    if isinstance(value, np.generic):
        plain: Writable = value.item()
        return encode_value(plain, kind)
    if isinstance(value, np.ndarray):
        return ValueType.ARRAY, _encode_numbers(value, kind)
    if isinstance(value, Sequence) and not isinstance(value, str):
        kind = _element_type(value) if kind is None else kind
        return ValueType.ARRAY, struct.pack("<IQ", kind, len(value)) + _pack(value, kind)
    kind = _scalar_type(value) if kind is None else kind
    return kind, _pack((value,), kind)


def _scalar_type(value: Writable) -> ValueType:
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, int):
        if value >= 0:
            return ValueType.UINT32 if value < 2**32 else ValueType.UINT64
        return ValueType.INT32 if value >= -(2**31) else ValueType.INT64
    if isinstance(value, float):
        return ValueType.FLOAT32
    if isinstance(value, str):
        return ValueType.STRING
    raise TypeError(f"a value of type {type(value).__name__} cannot be GGUF metadata")


def _element_type(values: Sequence[Writable]) -> ValueType:
    types = set(map(type, values))
    if not types:
        raise ValueError("an empty array needs the type of its elements")
    if types == {int}:
        numbers = [value for value in values if isinstance(value, int)]
        if min(numbers) >= -(2**31) and max(numbers) < 2**31:
            return ValueType.INT32
        return ValueType.INT64 if max(numbers) < 2**63 else ValueType.UINT64
    if types <= {int, float}:
        return ValueType.FLOAT32
    first = values[0]
    if isinstance(first, Sequence) and not isinstance(first, str):
        return ValueType.ARRAY
    return _scalar_type(first)


def _pack(values: Sequence[Writable], kind: ValueType) -> bytes:
    """The values one after the other, all of type `kind`."""
    if kind is ValueType.ARRAY:
        return b"".join(_pack_inner(value) for value in values)
    if kind is ValueType.STRING:
        return b"".join(encode_string(_checked_string(value)) for value in values)
    allowed: set[type] = {int}
    if kind is ValueType.BOOL:
        allowed = {bool}
    elif kind in (ValueType.FLOAT32, ValueType.FLOAT64):
        allowed = {int, float}
    for found in set(map(type, values)) - allowed:
        raise ValueError(f"a value of type {found.__name__} cannot be written as {kind.name}")
    try:
        return struct.pack(f"<{len(values)}{SCALARS[kind].format[-1]}", *values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a value does not fit {kind.name}: {error}") from error


def _pack_inner(value: Writable) -> bytes:
    kind, raw = encode_value(value)
    if kind is not ValueType.ARRAY:
        raise ValueError(f"a value of type {type(value).__name__} cannot be written as ARRAY")
    return raw


def _checked_string(value: Writable) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a value of type {type(value).__name__} cannot be written as STRING")
    return value


def _encode_numbers(values: NDArray[np.generic], kind: ValueType | None) -> bytes:
    if values.dtype == np.bool_:
        found: ValueType | None = ValueType.BOOL
    else:
        numeric = {
            np.dtype(form.format): known for known, form in SCALARS.items() if known is not ValueType.BOOL
        }
        found = numeric.get(values.dtype.newbyteorder("<"))
    if found is None or values.ndim != 1:
        raise TypeError(f"an array of {values.ndim} dimensions of {values.dtype} cannot be GGUF metadata")
    if kind not in (None, found):
        raise ValueError(f"an array of {values.dtype} cannot be written as {ValueType(kind or 0).name}")
    return struct.pack("<IQ", found, values.size) + values.astype(SCALARS[found].format).tobytes()
