"""CPUs of this process: the allowed ones, their grouping by core, and the fast cores."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgellm.device.sysfs import ROOT, cgroup_folders, read_fields, read_int, read_text
from edgellm.system.sysctl import sysctl_number, sysctl_text

# Slowest useful core, relative to the fastest one: others would wait for it at every barrier.
_FAST_SHARE = 0.7
# Speed of an efficiency core of Apple's, about.
_MAC_SLOW = 0.35


class Cores(NamedTuple):
    """CPUs of this process: `allowed` logical CPUs, the same grouped by core, and the `fast` cores.

    quota: CPUs' worth of time that cgroups allow, None for no limit. name: of the processor, None if the
    system does not say.
    """

    name: str | None
    online: int
    allowed: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    fast: tuple[int, ...]
    quota: float | None
    default_threads: int


def allowed_cpus() -> list[int]:
    """Return the logical CPUs this process may run on, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to_cpus(cpus: Iterable[int]) -> None:
    """Keep this thread, and threads that it starts, to these CPUs; nothing where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the CPUs' worth of time that the tightest cgroup allows; None for no limit."""
    quotas = []
    for folder in cgroup_folders(root, "cpu"):
        words = (read_text(folder / "cpu.max") or "").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def physical_cores(cpus: Sequence[int], root: Path = ROOT) -> list[tuple[int, ...]]:
    """Group logical CPUs by the core whose hardware threads they are."""
    groups: dict[str, list[int]] = defaultdict(list)
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        groups[siblings or str(cpu)].append(cpu)
    return sorted(tuple(group) for group in groups.values())


def core_speeds(cpus: Sequence[int], root: Path = ROOT) -> dict[int, float]:
    """Return each logical CPU's speed relative to the fastest one; 1.0 for all if nothing is known."""
    speeds = _capacities(cpus, root) or _clocks(cpus, root) or _mac_speeds(cpus, root)
    top = max(speeds.values(), default=0.0)
    return {cpu: speeds[cpu] / top for cpu in cpus} if top else dict.fromkeys(cpus, 1.0)


def _capacities(cpus: Sequence[int], root: Path) -> dict[int, float]:
    """The scheduler's figures, which include a core's width, not only its clock; empty if one is missing."""
    return _numbers(cpus, root, "cpu_capacity")


def _clocks(cpus: Sequence[int], root: Path) -> dict[int, float]:
    """Highest clock times width, where the system says one of them; empty otherwise."""
    clocks = _numbers(cpus, root, "cpufreq/cpuinfo_max_freq")
    if not cpus or not (root / f"sys/devices/system/cpu/cpu{cpus[0]}/regs/identification").is_dir():
        return clocks
    from edgellm.device.arm_cores import core_widths  # imported here, because few machines need it

    widths = core_widths(cpus, root)
    return {cpu: clocks.get(cpu, 1.0) * widths[cpu] for cpu in cpus} if clocks or widths else {}


def _numbers(cpus: Sequence[int], root: Path, name: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for cpu in cpus:
        number = read_int(root / f"sys/devices/system/cpu/cpu{cpu}/{name}")
        if not number or number < 0:
            return {}
        found[cpu] = float(number)
    return found


def _mac_speeds(cpus: Sequence[int], root: Path) -> dict[int, float]:
    """Two levels of performance, of which macOS tells the number of CPUs; it numbers the slow ones first."""
    n_fast, n_slow = (sysctl_number(f"hw.perflevel{level}.logicalcpu") for level in (0, 1))
    if root != ROOT or not n_fast or n_fast + n_slow != len(cpus):
        return {}
    return {cpu: 1.0 if i >= n_slow else _MAC_SLOW for i, cpu in enumerate(cpus)}


def fast_cores(cpus: Sequence[int], root: Path = ROOT) -> list[tuple[int, ...]]:
    """Return the physical cores that are not much slower than the fastest (big.LITTLE, hybrid laptops)."""
    speeds = core_speeds(cpus, root)
    return [core for core in physical_cores(cpus, root) if speeds[core[0]] >= _FAST_SHARE]


def default_threads(root: Path = ROOT) -> int:
    """Return the default number of threads: one for each fast core, within the cgroup's quota, at least 1.

    Hardware threads of one core share its multipliers and its path to memory, so a second one mostly waits at
    barriers. They are used only if there is a single core.
    """
    cores = fast_cores(allowed_cpus(), root)
    threads = len(cores) if len(cores) > 1 else len(cores[0])
    quota = cpu_quota(root)
    return threads if quota is None else max(1, min(threads, math.floor(quota)))


def cpu_name(root: Path = ROOT) -> str | None:
    """Return the processor's name; for Arm the board's and the kinds of cores, where the system says them."""
    from edgellm.device.arm_cores import core_kinds  # imported here, because no answer needs it

    fields = read_fields(root / "proc/cpuinfo")
    kinds = core_kinds(allowed_cpus(), root)
    if fields.get("model name") and not kinds:
        return fields["model name"]
    board = fields.get("Model") or fields.get("Hardware") or _device_tree_model(root)
    if board or kinds:
        return ", ".join(name for name in (board, kinds) if name)
    if brand := sysctl_text("machdep.cpu.brand_string"):
        return brand
    import platform  # imported here, because it takes 1 ms of a start

    return platform.processor() or None


def _device_tree_model(root: Path) -> str:
    return (read_text(root / "sys/firmware/devicetree/base/model") or "").rstrip("\0")


def read_cores(root: Path = ROOT) -> Cores:
    """Return the CPUs of this process."""
    allowed = allowed_cpus()
    fast = fast_cores(allowed, root)
    return Cores(
        name=cpu_name(root),
        online=os.cpu_count() or len(allowed),
        allowed=tuple(allowed),
        cores=tuple(physical_cores(allowed, root)),
        fast=tuple(cpu for core in fast for cpu in core),
        quota=cpu_quota(root),
        default_threads=default_threads(root),
    )
