"""The instruction sets that the engine has kernels for, and which of them this CPU runs."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class InstructionSets:
    """Kernel sets by name, weakest first: those built, those usable here, and the one that is used."""

    built: tuple[str, ...]
    usable: tuple[str, ...]
    chosen: str


def read_isa() -> InstructionSets | None:
    """What the extension module reports; None where it cannot be loaded. `EDGELLM_ISA` overrides it."""
    try:
        native: Any = importlib.import_module("edgellm._native")
    except ImportError:
        return None
    return InstructionSets(
        built=tuple(native.isas()),
        usable=tuple(native.usable_isas()),
        chosen=os.environ.get("EDGELLM_ISA") or native.best_isa(),
    )
