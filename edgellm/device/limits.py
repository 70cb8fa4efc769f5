"""What this process may use of the machine: CPUs (affinity, cgroup quota, SMT) and memory (cgroup limit)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def allowed_cpus() -> list[int]:
    """The CPUs this process may run on, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_threads(root: Path = Path("/")) -> int:
    """Physical cores among the allowed CPUs, at most the cgroup's CPU quota rounded down, at least 1.

    Two hardware threads of one core share its multipliers and its port to memory, so a second one mostly
    adds waiting at barriers. `root` is the folder that holds `proc` and `sys`.
    """
    cores = set()
    for cpu in allowed_cpus():
        siblings = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings or str(cpu))
    quota = cpu_quota(root)
    return max(1, len(cores) if quota is None else min(len(cores), math.floor(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that the tightest cgroup of this process grants; None where none limits it."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        unified = (_read(folder / "cpu.max") or "").split()
        if len(unified) == 2 and unified[0].isdigit():
            quotas.append(int(unified[0]) / int(unified[1]))
        quota, period = _read_int(folder / "cpu.cfs_quota_us"), _read_int(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes this process can still allocate without swapping: MemAvailable, or what a cgroup leaves.

    Returns None where the system does not say (no /proc). Page cache charged to a cgroup counts as free.
    """
    limits = []
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for folder in _cgroups(root, "memory"):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _read_int(folder / limit_name), _read_int(folder / usage_name)
            if limit is not None and usage is not None:
                limits.append(max(0, limit - usage + _reclaimable(folder)))
    return min(limits, default=None)


def _reclaimable(folder: Path) -> int:
    """Bytes of page cache that a cgroup can drop when it needs them."""
    stat = dict(line.split(maxsplit=1) for line in (_read(folder / "memory.stat") or "").splitlines())
    return int(stat.get("total_inactive_file", stat.get("inactive_file", "0")))


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and its ancestors, version 2 and then version 1."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, name = line.split(":", 2)
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _read_int(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
