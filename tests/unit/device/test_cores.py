from __future__ import annotations

import pytest

from edgellm.device import cores
from tests.unit.device.conftest import Tree

CPU = "sys/devices/system/cpu/cpu{}"


def use_cpus(monkeypatch: pytest.MonkeyPatch, *cpus: int) -> None:
    monkeypatch.setattr(cores, "allowed_cpus", lambda: sorted(cpus))


def test_this_machine_has_a_core_to_run_on() -> None:
    found = cores.read_cores()
    assert found.allowed
    assert {cpu for core in found.cores for cpu in core} == set(found.allowed)
    assert set(found.fast) <= set(found.allowed)
    assert 1 <= found.default_threads <= len(found.allowed)


def test_hardware_threads_of_a_core_count_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({f"{CPU.format(c)}/topology/core_cpus_list": f"{c % 4},{c % 4 + 4}" for c in range(8)})
    use_cpus(monkeypatch, *range(8))
    assert cores.physical_cores(range(8), root) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert cores.default_threads(root) == 4


def test_old_kernels_name_the_siblings_file_otherwise(tree: Tree) -> None:
    root = tree({f"{CPU.format(c)}/topology/thread_siblings_list": "0-1" for c in range(2)})
    assert cores.physical_cores([0, 1], root) == [(0, 1)]


def test_affinity_leaves_cores_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({f"{CPU.format(c)}/topology/core_cpus_list": str(c) for c in range(8)})
    use_cpus(monkeypatch, 2, 5, 6)
    assert cores.default_threads(root) == 3


def test_a_single_core_uses_its_hardware_threads(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({f"{CPU.format(c)}/topology/core_cpus_list": "0-1" for c in range(2)})
    use_cpus(monkeypatch, 0, 1)
    assert cores.default_threads(root) == 2


def test_slow_cores_stay_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = [381, 381, 381, 381, 1024, 1024, 1024, 1024]
    root = tree({f"{CPU.format(c)}/cpu_capacity": str(value) for c, value in enumerate(capacity)})
    use_cpus(monkeypatch, *range(8))
    assert cores.core_speeds(range(8), root)[0] == pytest.approx(381 / 1024)
    assert cores.fast_cores(range(8), root) == [(4,), (5,), (6,), (7,)]
    assert cores.default_threads(root) == 4


def test_clocks_tell_fast_cores_where_capacity_is_unknown(tree: Tree) -> None:
    files = {f"{CPU.format(c)}/cpufreq/cpuinfo_max_freq": "2400000" for c in range(2)}
    files |= {f"{CPU.format(c)}/cpufreq/cpuinfo_max_freq": "1500000" for c in range(2, 4)}
    assert cores.fast_cores(range(4), tree(files)) == [(0,), (1,)]


def test_cores_are_alike_where_one_of_them_does_not_say(tree: Tree) -> None:
    root = tree({f"{CPU.format(0)}/cpu_capacity": "400"})
    assert cores.core_speeds([0, 1], root) == {0: 1.0, 1: 1.0}


def test_clocks_of_small_cores_count_less(tree: Tree) -> None:
    files = {f"{CPU.format(c)}/cpufreq/cpuinfo_max_freq": "2000000" for c in range(4)}
    for cpu, midr in enumerate((0x412FD050, 0x412FD050, 0x414FD0B0, 0x414FD0B0)):
        files[f"{CPU.format(cpu)}/regs/identification/midr_el1"] = f"{midr:#018x}"
    assert cores.fast_cores(range(4), tree(files)) == [(2,), (3,)]
    unclocked = {path: text for path, text in files.items() if "cpufreq" not in path}
    assert cores.core_speeds(range(4), tree(unclocked)) == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1.0, 3: 1.0})


def test_macos_tells_its_levels_of_performance(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {"hw.perflevel0.logicalcpu": 4, "hw.perflevel1.logicalcpu": 2}
    monkeypatch.setattr(cores, "sysctl_number", lambda name: levels[name])
    monkeypatch.setattr(cores, "_capacities", lambda cpus, root: {})
    monkeypatch.setattr(cores, "_clocks", lambda cpus, root: {})
    use_cpus(monkeypatch, *range(6))
    assert [cpu for core in cores.fast_cores(range(6)) for cpu in core] == [2, 3, 4, 5]
    assert cores.default_threads() == 4
    levels["hw.perflevel1.logicalcpu"] = 0
    assert set(cores.core_speeds(range(6)).values()) == {1.0}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/a/b/cpu.max": "150000 100000", "proc/self/cgroup": "0::/a/b"}, 1.5),
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000", "proc/self/cgroup": "0::/a/b"}, None),
        (
            {
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "proc/self/cgroup": "0::/a/b",
            },
            2.0,
        ),
        # A container that sees its own cgroup at the top, under the host's path.
        ({"sys/fs/cgroup/cpu.max": "300000 100000", "proc/self/cgroup": "0::/host/only"}, 3.0),
        (
            {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
                "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/a",
            },
            0.5,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "proc/self/cgroup": "4:cpu:/",
            },
            None,
        ),
        ({}, None),
    ],
)
def test_quota(tree: Tree, files: dict[str, str], expected: float | None) -> None:
    assert cores.cpu_quota(tree(files)) == expected


def test_a_quota_below_one_cpu_still_leaves_a_thread(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"sys/fs/cgroup/cpu.max": "50000 100000", "proc/self/cgroup": "0::/"})
    use_cpus(monkeypatch, 0, 1, 2, 3)
    assert cores.default_threads(root) == 1


def test_names_of_a_laptop_and_of_a_board(tree: Tree) -> None:
    root = tree(
        {"proc/cpuinfo": "processor : 0\nmodel name\t: Chip 9000\n\nprocessor : 1\nmodel name : Other"}
    )
    assert cores.cpu_name(root) == "Chip 9000"
    root = tree(
        {"proc/cpuinfo": "processor : 0\nBogoMIPS : 108.00\n\nModel : Raspberry Pi 5 Model B Rev 1.0"}
    )
    assert cores.cpu_name(root) == "Raspberry Pi 5 Model B Rev 1.0"
