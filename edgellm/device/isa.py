"""Instruction sets: those with kernels in the engine, those of this CPU, and the one in use."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstructionSets:
    """Kernel sets by name, weakest first: those built, those usable here, and the one in use."""

    built: tuple[str, ...]
    usable: tuple[str, ...]
    chosen: str


def read_isa() -> InstructionSets | None:
    """Kernel sets of the extension module; None if it cannot be loaded. `EDGELLM_ISA` overrides it."""
    try:
        from edgellm import _native
    except ImportError:
        return None
    return InstructionSets(
        built=tuple(_native.isas()),
        usable=tuple(_native.usable_isas()),
        chosen=os.environ.get("EDGELLM_ISA") or _native.best_isa(),
    )
