"""The record each family file ends with.

Records here and in the blocks are named tuples: a dataclass takes seven times as long to define, and
every start of the program pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgellm.families.checkpoint import Checkpoint
from edgellm.families.source import Source
from edgellm.program import Program


class Family(NamedTuple):
    """One model family: GGUF's architecture, the program of a file, and the checkpoints it comes from.

    `ignored` are patterns of tensors that such files may hold and the program does not need.
    """

    architecture: str
    build: Callable[[Source], Program]
    checkpoint: Checkpoint
    ignored: tuple[str, ...] = ()
