"""The names of `general.file_type`: the mix of formats that a file was quantized to."""

from __future__ import annotations

from edgellm.gguf.types import GGMLType

_NAMES = {mix.number: mix.name for kind in GGMLType for mix in kind.mixes}


def file_type_name(number: object) -> str | None:
    """Return the mix's name, such as Q4_K_M; None for a number that is not known, or no number."""
    return _NAMES.get(number) if isinstance(number, int) else None
