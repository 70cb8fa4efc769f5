from __future__ import annotations

import pytest

from edgellm.device import memory
from tests.unit.device.conftest import Tree

GIB = 1 << 30
MEMINFO = f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {6 * GIB // 1024} kB"


def test_this_process_has_memory() -> None:
    total, available, peak = memory.total_memory(), memory.available_memory(), memory.peak_memory()
    assert total is not None
    assert available is None or 0 < available <= total
    assert peak is None or 1 << 20 < peak <= total


def test_machine_without_cgroups(tree: Tree) -> None:
    root = tree({"proc/meminfo": MEMINFO})
    assert memory.total_memory(root) == 8 * GIB
    assert memory.available_memory(root) == 6 * GIB


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/box",
            "sys/fs/cgroup/box/memory.max": str(2 * GIB),
            "sys/fs/cgroup/box/memory.current": str(GIB),
            "sys/fs/cgroup/box/memory.stat": f"anon 5\ninactive_file {GIB // 4}",
        },
        {
            "proc/self/cgroup": "4:memory:/box",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_cgroup_limit_less_use_plus_page_cache(tree: Tree, files: dict[str, str]) -> None:
    root = tree({"proc/meminfo": MEMINFO, **files})
    assert memory.total_memory(root) == 2 * GIB
    assert memory.available_memory(root) == GIB + GIB // 4


def test_no_limit_is_no_limit(tree: Tree) -> None:
    root = tree(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "4096",
            "sys/fs/cgroup/memory.max": "max",
        }
    )
    assert memory.total_memory(root) == 8 * GIB
    assert memory.available_memory(root) == 6 * GIB


def test_use_above_the_limit_leaves_nothing(tree: Tree) -> None:
    root = tree(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": "100",
            "sys/fs/cgroup/memory.current": "200",
        }
    )
    assert memory.available_memory(root) == 0


def test_a_system_that_says_nothing(tree: Tree) -> None:
    assert memory.available_memory(tree({})) is None
