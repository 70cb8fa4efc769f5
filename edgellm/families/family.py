"""The record each family file ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgellm.families.source import Source
from edgellm.program import Program


@dataclass(frozen=True, slots=True)
class Family:
    """One model family: Hugging Face's model_type, GGUF's architecture names, and the program of a file.

    `ignored` are patterns of tensors that such files may hold and the program does not need.
    """

    model_type: str
    architectures: tuple[str, ...]
    build: Callable[[Source], Program]
    ignored: tuple[str, ...] = ()
