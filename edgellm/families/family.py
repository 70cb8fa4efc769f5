"""Family: the record at the end of each family file.

Records here and in the blocks are named tuples. Defining a dataclass takes seven times as long, and every
start of the program pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgellm.families.checkpoint import Checkpoint
from edgellm.families.source import Source
from edgellm.program import Program


class Family(NamedTuple):
    """One model family: the builder of its program, and its checkpoints.

    ignored: patterns of tensors that a file may hold and the program does not read. f32: patterns of tensors
    with two dimensions that are never quantized, beside those of all families.
    """

    build: Callable[[Source], Program]
    checkpoint: Checkpoint
    ignored: tuple[str, ...] = ()
    f32: tuple[str, ...] = ()
