"""Memory of this process: available, in use, and at its peak."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgellm import _native
from edgellm.device.sysfs import ROOT, cgroup_folders, read_fields, read_int
from edgellm.system.limits import address_space, peak_bytes


def total_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory that this process can have at most: the machine's, or its cgroup's limit."""
    total = _kib(read_fields(root / "proc/meminfo").get("MemTotal"))
    if total is None:
        total = _native.memory_bytes() or None
    limits = [limit for limit, _, _ in _cgroup_limits(root)]
    if total is not None:
        limits.append(total)
    return min(limits, default=None)


def available_memory(root: Path = ROOT) -> int | None:
    """Return the bytes that this process can still use without swapping, by the machine and by its cgroups.

    None if the system does not say (no /proc). Page cache that is charged to a cgroup counts as free.
    """
    available = _kib(read_fields(root / "proc/meminfo").get("MemAvailable"))
    limits = [] if available is None else [available]
    for limit, usage, folder in _cgroup_limits(root):
        stat = read_fields(folder / "memory.stat")
        cached = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
        limits.append(max(0, limit - usage + int(cached)))
    return min(limits, default=None)


def free_addresses(root: Path = ROOT) -> int | None:
    """Return the bytes of addresses that this process can still take (`ulimit -v`); None without a limit."""
    limit = address_space()
    used = _kib(read_fields(root / "proc/self/status").get("VmSize"))
    return None if limit is None or used is None else max(0, limit - used)


def own_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of this process that its end would free, without pages of files."""
    return _kib(read_fields(root / "proc/self/status").get("RssAnon"))


def peak_memory(root: Path = ROOT, pid: int | None = None) -> int | None:
    """Return the largest resident size of this process, or of process `pid`; None if unknown."""
    peak = _kib(read_fields(root / "proc" / str(pid or "self") / "status").get("VmHWM"))
    return peak_bytes() if peak is None and pid is None and root == ROOT else peak


def reset_peak_memory() -> bool:
    """Start counting the peak anew; False if the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _kib(text: str | None) -> int | None:
    """Bytes of a `1234 kB` field."""
    return None if text is None else int(text.split()[0]) * 1024


def _cgroup_limits(root: Path) -> Iterator[tuple[int, int, Path]]:
    """(bytes allowed, bytes used, folder) of each cgroup of this process that has a limit."""
    for folder in cgroup_folders(root, "memory"):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = read_int(folder / limit_name), read_int(folder / usage_name)
            # Version 1 writes "no limit" as the largest multiple of the page size.
            if limit is not None and usage is not None and limit < 1 << 60:
                yield limit, usage, folder
