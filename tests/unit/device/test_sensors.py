from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.device import sensors
from edgellm.device.sensors import EnergyMeter, read_sensors, throttled_between
from tests.unit.device.conftest import Tree

RAPL = "sys/class/powercap/intel-rapl:0"


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "allowed_cpus", lambda: [0, 1])


def test_this_machine_can_be_read() -> None:
    reading = read_sensors()
    assert reading.temperature_c is None or -20 < reading.temperature_c < 150
    assert reading.clock_mhz is None or 50 < reading.clock_mhz < 10_000


def test_a_system_that_says_nothing(tree: Tree) -> None:
    reading = read_sensors(tree({}))
    assert reading == sensors.Reading(None, None, None, None)
    assert throttled_between(reading, reading) is None
    meter = EnergyMeter(tree({}))
    meter.start()
    assert (meter.stop(), meter.source) == (None, None)


def test_hottest_sensor_of_the_processor(tree: Tree) -> None:
    root = tree(
        {
            "sys/class/hwmon/hwmon0/name": "nvme",
            "sys/class/hwmon/hwmon0/temp1_input": "81000",
            "sys/class/hwmon/hwmon1/name": "coretemp",
            "sys/class/hwmon/hwmon1/temp1_input": "55000",
            "sys/class/hwmon/hwmon1/temp2_input": "61500",
        }
    )
    assert sensors.temperature_c(root) == 61.5


def test_thermal_zone_of_a_board(tree: Tree) -> None:
    zone = "sys/class/thermal/thermal_zone"
    root = tree(
        {
            f"{zone}0/type": "battery",
            f"{zone}0/temp": "90000",
            f"{zone}1/type": "cpu-thermal",
            f"{zone}1/temp": "48200",
        }
    )
    assert sensors.temperature_c(root) == 48.2


def test_clock_is_the_mean_of_the_allowed_cpus(tree: Tree) -> None:
    name = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    root = tree({name.format(0): "1500000", name.format(1): "2500000", name.format(2): "100000"})
    assert sensors.clock_mhz(root) == 2000.0


def test_clock_from_cpuinfo(tree: Tree) -> None:
    assert sensors.clock_mhz(tree({"proc/cpuinfo": "processor : 0\ncpu MHz : 2599.998"})) == 2599.998


def test_throttle_counter(tree: Tree) -> None:
    name = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    before = read_sensors(tree({name.format(0): "7", name.format(1): "1"}))
    assert before.throttle_events == 8
    assert throttled_between(before, before) is False
    assert throttled_between(before, read_sensors(tree({name.format(1): "2"}))) is True


@pytest.mark.parametrize(
    ("text", "expected"), [("50000", False), ("50005", True), ("0", False), ("odd", None)]
)
def test_raspberry_pi_firmware(tree: Tree, text: str, expected: bool | None) -> None:
    reading = read_sensors(tree({"sys/devices/platform/soc/soc:firmware/get_throttled": text}))
    assert reading.throttled_now is expected
    assert throttled_between(replace(reading, throttled_now=None), reading) is expected


def write(path: Path, value: int) -> None:
    path.write_text(f"{value}\n")


def test_rapl_counts_packages_and_wraps(tree: Tree) -> None:
    root = tree(
        {
            f"{RAPL}/energy_uj": "1000000",
            f"{RAPL}/max_energy_range_uj": "1999999",
            # A part of the package is no package of its own.
            f"{RAPL}:0/energy_uj": "5",
        }
    )
    meter = EnergyMeter(root)
    assert meter.source == "rapl"
    meter.start()
    write(root / RAPL / "energy_uj", 1_750_000)
    assert meter.stop() == 0.75
    meter.start()
    write(root / RAPL / "energy_uj", 250_000)
    assert meter.stop() == 0.5


def test_power_times_time(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    name = "sys/class/hwmon/hwmon0/power1_input"
    root = tree({"sys/class/hwmon/hwmon0/name": "ina219", name: "4000000"})
    meter = EnergyMeter(root)
    assert meter.source == "hwmon"
    meter.start()
    now[0] += 10
    write(root / name, 6_000_000)
    assert meter.stop() == 50.0


def test_battery_only_while_it_discharges(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter([0.0, 2.0]).__next__)
    battery = "sys/class/power_supply/BAT0"
    files = {
        f"{battery}/type": "Battery",
        f"{battery}/status": "Charging",
        f"{battery}/current_now": "-500000",
        f"{battery}/voltage_now": "12000000",
    }
    assert EnergyMeter(tree(files)).source is None
    meter = EnergyMeter(tree(files | {f"{battery}/status": "Discharging"}))
    assert meter.source == "battery"
    meter.start()
    assert meter.stop() == pytest.approx(12.0)
