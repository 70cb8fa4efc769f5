"""Two limits of this machine: the rate of memory reads, and the rate of multiply-adds."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits measured on `threads` threads at once with the instruction set `isa`.

    read_gb_s: 1e9 bytes a second, read from a buffer far larger than the caches. int8_gmac_s: 1e9
    multiply-adds of 8-bit values a second. float_gmac_s: the same of 32-bit floats.
    """

    threads: int
    isa: str
    read_gb_s: float
    int8_gmac_s: float
    float_gmac_s: float


def measure_limits(threads: int, isa: str = "") -> Limits:
    """Measure for about a second; `isa` "" uses the default instruction set."""
    from edgellm import _native

    chosen = isa or os.environ.get("EDGELLM_ISA") or _native.best_isa()
    measured = _native.measure_limits(threads, chosen)
    return Limits(
        threads=threads,
        isa=chosen,
        read_gb_s=measured["read_bytes_per_s"] / 1e9,
        int8_gmac_s=measured["int8_macs_per_s"] / 1e9,
        float_gmac_s=measured["float_macs_per_s"] / 1e9,
    )
