"""Descriptions of devices, by trees of files as boards and laptops have them."""

from __future__ import annotations

import pytest

from edgellm.device import describe, sensors
from edgellm.device.describe import describe_device, governor, load_average
from edgellm.device.sensors import EnergyMeter, on_battery, pmic_watts
from tests.unit.device.conftest import Tree

CPU = "sys/devices/system/cpu/cpu{}"
PMIC = """\
     3V7_WL_SW_A current(0)=0.08783000A
   VDD_CORE_A current(7)=2.50000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.15000000V
"""


def test_a_board(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "allowed_cpus", lambda: [0, 1, 2])
    files = {
        "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "sys/firmware/devicetree/base/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "proc/loadavg": "0.42 0.30 0.20 1/200 1234",
        "etc/os-release": 'NAME=Debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
    }
    for cpu, (capacity, clock) in enumerate(((1024, 2400000), (1024, 2400000), (512, 1500000))):
        files |= {
            CPU.format(cpu) + "/cpu_capacity": str(capacity),
            CPU.format(cpu) + "/cpufreq/cpuinfo_max_freq": str(clock),
            CPU.format(cpu) + "/cpufreq/scaling_governor": "ondemand" if cpu else "performance",
        }
    root = tree(files)
    found = describe_device(root)
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["soc"] == "brcm,bcm2712"
    assert found["distribution"] == "Debian GNU/Linux 12 (bookworm)"
    assert found["governor"] == governor(root) == "ondemand,performance"
    assert found["core_kinds"] == [
        {"n": 2, "max_mhz": 2400, "speed": 1.0},
        {"n": 1, "max_mhz": 1500, "speed": 0.5},
    ]
    assert load_average(root) == 0.42


def test_a_laptop_and_a_system_that_says_nothing(tree: Tree) -> None:
    assert describe_device(tree({}))["board"] is None
    assert load_average(tree({})) is None
    root = tree({"sys/class/dmi/id/sys_vendor": "Vendor", "sys/class/dmi/id/product_name": "Laptop 7"})
    assert describe_device(root)["board"] == "Vendor Laptop 7"


def test_power_between_samples(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 1.0, 3.0, 4.0))
    monkeypatch.setattr("edgellm.device.sensors.time.monotonic", lambda: next(times))
    name = "sys/class/hwmon/hwmon0/{}"
    root = tree({name.format("name"): "ina226", name.format("power1_input"): "2000000"})
    meter = EnergyMeter(root)
    meter.start()
    tree({name.format("power1_input"): "4000000"})
    assert meter.sample() == pytest.approx(3.0)
    assert meter.sample() == pytest.approx(4.0)
    assert meter.stop() == pytest.approx(3.0 * 1 + 4.0 * 2 + 4.0 * 1)


def test_a_chip_that_does_not_multiply(tree: Tree) -> None:
    name = "sys/class/hwmon/hwmon{}/{}"
    root = tree(
        {
            name.format(0, "name"): "ina3221",
            name.format(0, "in1_input"): "5000",
            name.format(0, "curr1_input"): "400",
            name.format(0, "in2_input"): "3000",
            name.format(0, "curr2_input"): "100",
            name.format(1, "name"): "nct6775",
            name.format(1, "in1_input"): "12000",
            name.format(1, "curr1_input"): "9000",
        }
    )
    meter = EnergyMeter(root)
    assert meter.source == "hwmon"
    meter.start()
    assert meter.sample() == pytest.approx(5.0 * 0.4 + 3.0 * 0.1)


def test_the_power_chip_of_a_raspberry_pi_5(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyMeter(tree({})).source is None
    monkeypatch.setattr(sensors, "_pmic_text", lambda: PMIC)
    assert pmic_watts() == pytest.approx(0.08783 * 3.7 + 2.5 * 0.8)
    assert EnergyMeter(tree({})).source == "pmic"


@pytest.mark.parametrize(
    ("status", "expected"), [("Discharging", True), ("Charging", False), ("Full", False)]
)
def test_a_battery(tree: Tree, status: str, expected: bool) -> None:
    name = "sys/class/power_supply/BAT0/{}"
    assert on_battery(tree({name.format("type"): "Battery", name.format("status"): status})) is expected
