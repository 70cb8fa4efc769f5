from __future__ import annotations

import subprocess
import sys

import pytest

from edgellm.system import limits


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from edgellm.system.limits import *\n{code}"], capture_output=True, text=True
    )


def test_windows_has_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert limits.peak_bytes() is None
    assert limits.address_space() is None
    assert limits.open_files(100_000) is None
    limits.limit_address_space(0)
    limits.limit_cpu_time(0)
    bytearray(1 << 20)  # nothing was limited


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of Linux")
class TestLinux:
    def test_the_peak_is_at_least_what_is_in_use(self) -> None:
        data = bytearray(32 << 20)
        peak = limits.peak_bytes()
        assert peak is not None
        assert peak >= len(data)

    def test_allocations_beyond_the_limit_fail(self) -> None:
        done = run("limit_address_space(64 << 20)\nprint(address_space() > 64 << 20)\nbytearray(1 << 28)")
        assert done.stdout == "True\n"
        assert "MemoryError" in done.stderr

    def test_a_process_that_computes_too_long_ends(self) -> None:
        assert run("limit_cpu_time(1)\nwhile True: pass").returncode < 0

    def test_the_soft_limit_of_open_files_is_raised_as_far_as_the_hard_one_allows(self) -> None:
        setup = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (50, 200))\n"
        assert (
            run(setup + "print(open_files(40), open_files(100), open_files(1000))").stdout == "50 100 200\n"
        )
