"""Types in which a cache stores keys and values, and their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgellm.gguf.reader import GGUFFile
    from edgellm.program import Program
    from edgellm.program.ops import CacheSpec


class KvType(NamedTuple):
    """A type of cached keys and values; its size is that of the GGML type of the same name.

    description: for users; "" if the name tells enough. integers: attention multiplies keys and values as
    integers, not as floats. native_only: other backends do not have the type.
    """

    description: str = ""
    integers: bool = False
    native_only: bool = False


# By name. The native engine's list is EDGELLM_KV_TYPES in native/kernels/attention/attention.h.
KV_TYPES = {
    "f16": KvType(),
    "f32": KvType(),
    "i16": KvType("integers with a scale for each token and head", integers=True, native_only=True),
    "q8_0": KvType(),
}


def chosen_kv_type(file: GGUFFile, program: Program, kv_type: str, *, backend: str, isa: str = "") -> str:
    """The type that "auto" stands for, or `kv_type` itself.

    16 bits would lose digits of a model with f32 weights. Of the two types of 16 bits, the one that is faster
    on the instruction set `isa` is chosen ("": the one in use).
    """
    from edgellm.gguf.types import GGMLType
    from edgellm.program.exported import is_exported

    if is_exported(file.metadata):
        return "f32"
    if kv_type != "auto":
        return kv_type
    if {file.tensors[name].type for name in program.weights} == {GGMLType.F32}:
        return "f32"
    if backend != "native":
        return "f16"
    from edgellm.backends.native import faster_kv_type

    return faster_kv_type(isa)


def cached_bytes(cache: CacheSpec, kv_type: str) -> float:
    """Bytes of one token's keys and values."""
    from edgellm.gguf.types import LAYOUTS, GGMLType

    layout = LAYOUTS[GGMLType[kv_type.upper()]]
    n_values = cache.n_kv_heads * (cache.key_dim + cache.value_dim)
    return n_values * layout.block_bytes / layout.block_size
