"""Description of this machine, for records of measurements."""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from edgellm.device.cores import allowed_cpus, core_speeds, cpu_name, physical_cores
from edgellm.device.memory import total_memory
from edgellm.device.sysfs import ROOT, read_int, read_text


def describe_device(root: Path = ROOT) -> dict[str, Any]:
    """Board, SoC, cores, memory, system and governor; None for what the system does not say.

    core_kinds: for each kind, its number of cores, its highest clock in MHz and its speed relative to the
    fastest. memory: bytes.
    """
    cpus = allowed_cpus()
    return {
        "board": _board(root),
        "soc": _soc(root),
        "processor": cpu_name(root),
        "core_kinds": _core_kinds(cpus, root),
        "n_cpus": os.cpu_count(),
        "n_allowed": len(cpus),
        "memory": total_memory(root),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "distribution": _distribution(root),
        "governor": governor(root),
    }


def governor(root: Path = ROOT) -> str | None:
    """The kernel's clock governors of the allowed CPUs, with commas between; None without one."""
    found = {
        read_text(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")
        for cpu in allowed_cpus()
    }
    return ",".join(sorted(name for name in found if name)) or None


def load_average(root: Path = ROOT) -> float | None:
    """Programs that ran or waited for a processor in the last minute, in the mean."""
    words = (read_text(root / "proc/loadavg") or "").split()
    try:
        return float(words[0])
    except (IndexError, ValueError):
        return None


def _board(root: Path) -> str | None:
    tree = (read_text(root / "sys/firmware/devicetree/base/model") or "").rstrip("\0")
    parts = [read_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    return tree or " ".join(part for part in parts if part) or None


def _soc(root: Path) -> str | None:
    """The last, most general name of the device tree, which is the SoC's."""
    names = (read_text(root / "sys/firmware/devicetree/base/compatible") or "").strip("\0").split("\0")
    return names[-1] or None


def _core_kinds(cpus: list[int], root: Path) -> list[dict[str, float | int | None]]:
    speeds = core_speeds(cpus, root)
    kinds: Counter[tuple[float, int | None]] = Counter()
    for core in physical_cores(cpus, root):
        top = read_int(root / f"sys/devices/system/cpu/cpu{core[0]}/cpufreq/cpuinfo_max_freq")
        kinds[round(speeds[core[0]], 3), None if top is None else top // 1000] += 1
    return [
        {"n": n, "max_mhz": mhz, "speed": speed} for (speed, mhz), n in sorted(kinds.items(), reverse=True)
    ]


def _distribution(root: Path) -> str | None:
    for line in (read_text(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return None
