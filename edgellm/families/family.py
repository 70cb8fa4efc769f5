"""The record each family file ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgellm.families.checkpoint import Checkpoint
from edgellm.families.source import Source
from edgellm.program import Program


@dataclass(frozen=True, slots=True)
class Family:
    """One model family: GGUF's architecture, the program of a file, and the checkpoints it comes from.

    `ignored` are patterns of tensors that such files may hold and the program does not need.
    """

    architecture: str
    build: Callable[[Source], Program]
    checkpoint: Checkpoint
    ignored: tuple[str, ...] = ()
