from __future__ import annotations

import pytest

from edgellm.device import cores
from edgellm.device.arm_cores import core_kinds, midr_cores
from tests.unit.device.conftest import Tree

MIDR = "sys/devices/system/cpu/cpu{}/regs/identification/midr_el1"
MODEL = "sys/firmware/devicetree/base/model"


def cpuinfo(*cores: tuple[int, int], tail: str = "") -> str:
    blocks = [
        f"processor\t: {cpu}\nFeatures\t: fp asimd\nCPU implementer\t: {implementer:#04x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: {part:#05x}\nCPU revision\t: 1\n"
        for cpu, (implementer, part) in enumerate(cores)
    ]
    return "\n".join(blocks) + tail


def use_cpus(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(cores, "allowed_cpus", lambda: list(range(n)))


def test_a_raspberry_pi_5(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cpus(monkeypatch, 4)
    tail = "\nRevision\t: c04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0"
    root = tree({"proc/cpuinfo": cpuinfo(*[(0x41, 0xD0B)] * 4, tail=tail)})
    assert cores.cpu_name(root) == "Raspberry Pi 5 Model B Rev 1.0, 4 x Cortex-A76"


def test_the_device_tree_names_the_board(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cpus(monkeypatch, 4)
    files = {MIDR.format(c): "0x00000000410fd083" for c in range(4)}
    root = tree({MODEL: "Raspberry Pi 4 Model B Rev 1.5\0", **files})
    assert cores.cpu_name(root) == "Raspberry Pi 4 Model B Rev 1.5, 4 x Cortex-A72"


def test_kinds_of_a_phone_biggest_first(tree: Tree) -> None:
    phone = [(0x41, 0xD05)] * 4 + [(0x41, 0xD0B)] * 2 + [(0x41, 0xD44)] * 2
    root = tree({"proc/cpuinfo": cpuinfo(*phone)})
    assert core_kinds(range(8), root) == "2 x Cortex-X1 + 2 x Cortex-A76 + 4 x Cortex-A55"
    assert core_kinds([0, 1, 7], root) == "1 x Cortex-X1 + 2 x Cortex-A55"


def test_midr_counts_more_than_the_common_file(tree: Tree) -> None:
    # Some systems list every CPU as the one that read the file.
    root = tree({"proc/cpuinfo": cpuinfo(*[(0x41, 0xD03)] * 2), MIDR.format(1): "0x00000000411fd073"})
    assert midr_cores(range(2), root) == {0: (0x41, 0xD03), 1: (0x41, 0xD07)}


def test_an_unknown_core_keeps_its_numbers(tree: Tree) -> None:
    root = tree({"proc/cpuinfo": cpuinfo((0x4E, 0x004))})
    assert core_kinds([0], root) == "1 x core 0x004 of implementer 0x4e"


@pytest.mark.parametrize("text", ["", "nonsense", "0x", "0x" + "f" * 40, "-1"])
def test_a_malformed_midr_reads_as_none(tree: Tree, text: str) -> None:
    root = tree({MIDR.format(0): text, "proc/cpuinfo": "processor : 0\nCPU part : 0xd0b\nCPU implementer :"})
    assert core_kinds([0], root) is None


def test_32_bit_arm_has_a_model_name_that_says_less(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cpus(monkeypatch, 1)
    text = "model name\t: ARMv7 Processor rev 4 (v7l)\n" + cpuinfo((0x41, 0xD03), tail="Hardware\t: BCM2835")
    assert cores.cpu_name(tree({"proc/cpuinfo": text})) == "BCM2835, 1 x Cortex-A53"
