"""Facts that macOS tells about the machine by name."""

from __future__ import annotations

import sys


def sysctl(name: str) -> bytes:
    """Return the value of a name such as `hw.perflevel0.logicalcpu`; empty if unknown, or not on macOS."""
    if sys.platform == "darwin":
        import ctypes

        call = ctypes.CDLL(None).sysctlbyname
        size = ctypes.c_size_t(0)
        if call(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            value = ctypes.create_string_buffer(size.value)
            if call(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
                return value.raw[: size.value]
    return b""


def sysctl_number(name: str) -> int:
    """Return a whole number; 0 if unknown."""
    return int.from_bytes(sysctl(name), sys.byteorder)


def sysctl_text(name: str) -> str:
    """Return a text; empty if unknown."""
    return sysctl(name).rstrip(b"\0").decode("utf-8", "replace")
