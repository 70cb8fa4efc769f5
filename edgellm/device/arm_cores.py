"""Names of Arm cores by their MIDR: the implementer and part number that each core reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgellm.device.sysfs import ROOT, read_text

# Linux's arch/arm64/include/asm/cputype.h and the processors' reference manuals.
_PARTS = {
    0x41: {  # Arm
        0xC07: "Cortex-A7",
        0xC08: "Cortex-A8",
        0xC09: "Cortex-A9",
        0xC0F: "Cortex-A15",
        0xD03: "Cortex-A53",
        0xD04: "Cortex-A35",
        0xD05: "Cortex-A55",
        0xD07: "Cortex-A57",
        0xD08: "Cortex-A72",
        0xD09: "Cortex-A73",
        0xD0A: "Cortex-A75",
        0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1",
        0xD0D: "Cortex-A77",
        0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78",
        0xD44: "Cortex-X1",
        0xD46: "Cortex-A510",
        0xD47: "Cortex-A710",
        0xD48: "Cortex-X2",
        0xD49: "Neoverse-N2",
        0xD4B: "Cortex-A78C",
        0xD4C: "Cortex-X1C",
        0xD4D: "Cortex-A715",
        0xD4E: "Cortex-X3",
        0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520",
        0xD81: "Cortex-A720",
        0xD82: "Cortex-X4",
        0xD84: "Neoverse-V3",
        0xD85: "Cortex-X925",
        0xD87: "Cortex-A725",
        0xD8E: "Neoverse-N3",
    },
    0x51: {  # Qualcomm
        0x001: "Oryon",
        0x800: "Kryo 2xx Gold",
        0x801: "Kryo 2xx Silver",
        0x802: "Kryo 3xx Gold",
        0x803: "Kryo 3xx Silver",
        0x804: "Kryo 4xx Gold",
        0x805: "Kryo 4xx Silver",
    },
    0x61: {  # Apple
        0x022: "M1 Icestorm",
        0x023: "M1 Firestorm",
        0x024: "M1 Pro Icestorm",
        0x025: "M1 Pro Firestorm",
        0x028: "M1 Max Icestorm",
        0x029: "M1 Max Firestorm",
        0x032: "M2 Blizzard",
        0x033: "M2 Avalanche",
    },
}
# Cores that begin at most two operations at a time, in order: a third of what others do in the same clock.
_NARROW = {
    0x41: {0xC07, 0xD03, 0xD04, 0xD05, 0xD46, 0xD80},
    0x51: {0x801, 0x803, 0x805},
}
_NARROW_WIDTH = 1 / 3
_FIELD = re.compile(r"^(processor|CPU implementer|CPU part)\s*:\s*(0x[0-9a-fA-F]+|\d+)\s*$")


def midr_cores(cpus: Sequence[int], root: Path = ROOT) -> dict[int, tuple[int, int]]:
    """Return each CPU's implementer and part number: from its own MIDR, else from `/proc/cpuinfo`."""
    found = _from_cpuinfo(root)
    for cpu in cpus:
        path = root / f"sys/devices/system/cpu/cpu{cpu}/regs/identification/midr_el1"
        text = read_text(path) or ""
        if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
            midr = int(text, 16)
            found[cpu] = (midr >> 24 & 0xFF, midr >> 4 & 0xFFF)
    return {cpu: found[cpu] for cpu in cpus if cpu in found}


def _from_cpuinfo(root: Path) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    cpu, implementer = None, None
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        match = _FIELD.match(line)
        if not match:
            continue
        value = int(match[2], 0)
        if match[1] == "processor":
            cpu, implementer = value, None
        elif match[1] == "CPU implementer":
            implementer = value
        elif cpu is not None and implementer is not None:
            found[cpu] = (implementer, value)
    return found


def core_widths(cpus: Sequence[int], root: Path = ROOT) -> dict[int, float]:
    """Return the work of each CPU per clock, relative to a core that runs out of order; 1 where unknown."""
    cores = midr_cores(cpus, root)
    narrow = {cpu for cpu, (implementer, part) in cores.items() if part in _NARROW.get(implementer, ())}
    return {cpu: _NARROW_WIDTH if cpu in narrow else 1.0 for cpu in cpus}


def core_kinds(cpus: Sequence[int], root: Path = ROOT) -> str | None:
    """Return the kinds of Arm cores and their numbers, such as `4 x Cortex-A76`; None on other processors.

    Kinds are in the order of their last CPU, highest first, because systems number small cores first.
    """
    cores = midr_cores(cpus, root)
    names = [_name(*cores[cpu]) for cpu in sorted(cores, reverse=True)]
    return " + ".join(f"{count} x {name}" for name, count in Counter(names).items()) or None


def _name(implementer: int, part: int) -> str:
    known = _PARTS.get(implementer, {}).get(part)
    return known or f"core {part:#05x} of implementer {implementer:#04x}"
