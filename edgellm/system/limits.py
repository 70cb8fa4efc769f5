"""Limits that the system puts on this process (setrlimit(2)). Windows has none of them."""

from __future__ import annotations

import contextlib
import sys


def peak_bytes() -> int | None:
    """Largest resident size of this process so far; None on Windows. Linux gives a finer figure in /proc."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def address_space() -> int | None:
    """Most bytes of addresses that this process may use (ulimit -v); None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def limit_address_space(more_bytes: int) -> None:
    """Let allocations fail that need more than `more_bytes` above what is in use now, where /proc tells that.

    A process that ends by such a failure leaves no core file.
    """
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", "rb") as status:
            used = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, used + more_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu_time(more_s: int) -> None:
    """Have the system end this process after `more_s` more seconds of processor time."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (used + more_s, resource.RLIM_INFINITY))


def open_files(wanted: int) -> int | None:
    """Open files that this process may have, after asking for `wanted`; None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return None
        if soft < wanted:
            soft = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return soft
    return None
