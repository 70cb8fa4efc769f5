"""Temperature, clock, throttling and energy; None for sensors that the machine does not have."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgellm.device.cores import allowed_cpus
from edgellm.device.sysfs import ROOT, read_fields, read_int, read_text

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "cpu")
# Bits 0 to 3 of a Raspberry Pi's `get_throttled`: under-voltage, capped clock, throttled, soft limit, now.
_PI_THROTTLED_NOW = 0xF


@dataclass(frozen=True, slots=True)
class Reading:
    """Sensors at one moment; `throttle_events` counts the times that a processor slowed down for heat."""

    temperature_c: float | None
    clock_mhz: float | None
    throttle_events: int | None
    throttled_now: bool | None


def read_sensors(root: Path = ROOT) -> Reading:
    """Read all sensors once."""
    return Reading(
        temperature_c=temperature_c(root),
        clock_mhz=clock_mhz(root),
        throttle_events=_throttle_events(root),
        throttled_now=_throttled_now(root),
    )


def throttled_between(before: Reading, after: Reading) -> bool | None:
    """Return True if the processor throttled between two readings; None if no source can be read."""
    known = False
    if before.throttle_events is not None and after.throttle_events is not None:
        known = True
        if after.throttle_events > before.throttle_events:
            return True
    for reading in (before, after):
        if reading.throttled_now is not None:
            known = True
            if reading.throttled_now:
                return True
    return False if known else None


def temperature_c(root: Path = ROOT) -> float | None:
    """Return the processor's temperature in degrees Celsius, by its hottest sensor or thermal zone."""
    cpu = [value for name, value in _hwmon(root, "temp") if name in _CPU_SENSORS]
    if cpu:
        return max(cpu) / 1000
    zones: dict[str, int] = {}
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = read_int(folder / "temp")
        if value is not None and value > 0:
            zones[f"{read_text(folder / 'type')}/{folder.name}"] = value
    of_cpu = [value for name, value in zones.items() if "cpu" in name or "x86_pkg" in name or "soc" in name]
    return max(of_cpu or zones.values()) / 1000 if zones else None


def clock_mhz(root: Path = ROOT) -> float | None:
    """Return the mean clock of the allowed CPUs in MHz, as the kernel last measured or set it."""
    clocks = []
    for cpu in allowed_cpus():
        value = read_int(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")
        if value is not None:
            clocks.append(value / 1000)
    if not clocks:
        field = read_fields(root / "proc/cpuinfo").get("cpu MHz")
        return float(field) if field else None
    return sum(clocks) / len(clocks)


def _throttle_events(root: Path) -> int | None:
    """Sum of Intel's per-core and per-package counters."""
    counts = []
    for cpu in allowed_cpus():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
        for name in ("core_throttle_count", "package_throttle_count"):
            value = read_int(folder / name)
            if value is not None:
                counts.append(value)
    return sum(counts) if counts else None


def _throttled_now(root: Path) -> bool | None:
    """Throttling flags of a Raspberry Pi's firmware."""
    text = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if text is None:
        return None
    try:
        return bool(int(text, 16) & _PI_THROTTLED_NOW)
    except ValueError:
        return None


def _hwmon(root: Path, kind: str) -> Iterator[tuple[str, int]]:
    """(chip name, value) of every `kind`N_input of every hardware monitor."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = read_text(folder / "name") or ""
        for path in sorted(folder.glob(f"{kind}*_input")):
            value = read_int(path)
            if value is not None:
                yield name, value


class EnergyMeter:
    """Joules between `start()` and `stop()`, and the source of the figure.

    source: `rapl` (the processor packages' own counters); `hwmon`, `battery` or `pmic` (a Raspberry Pi 5's
    power chip, by its `vcgencmd`): the mean power between samples, times the seconds between them; None if
    nothing can be read. `start()`, `stop()` and `sample()` read it, so a long time needs samples between.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._packages = [
            folder
            for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and read_int(folder / "energy_uj") is not None
        ]
        self.source: str | None = None
        if self._packages:
            self.source = "rapl"
        else:
            sources = {"hwmon": self._hwmon_watts, "battery": self._battery_watts, "pmic": pmic_watts}
            self.source = next((name for name, read in sources.items() if read() is not None), None)
        self._counters: list[int] = []
        self._watts: float | None = None
        self._sampled = 0.0
        self._joules: float | None = None

    def start(self) -> None:
        """Start, or start again."""
        self._joules = None if self.source is None else 0.0
        self._counters = self._read_counters()
        self._watts = self._read_watts()
        self._sampled = time.monotonic()

    def sample(self) -> float | None:
        """Mean watts since the last sample or `start()`; None if they cannot be read."""
        now = time.monotonic()
        seconds, self._sampled = now - self._sampled, now
        if self.source == "rapl":
            joules = self._counted_joules()
        else:
            before, self._watts = self._watts, self._read_watts()
            known = before is not None and self._watts is not None
            joules = (before + self._watts) / 2 * seconds if known else None  # type: ignore[operator]
        self._joules = None if joules is None or self._joules is None else self._joules + joules
        return None if joules is None or seconds <= 0 else joules / seconds

    def stop(self) -> float | None:
        """Return the joules since `start()`; None if a sample could not be read."""
        self.sample()
        return self._joules

    def _counted_joules(self) -> float | None:
        total = 0
        before, self._counters = self._counters, self._read_counters()
        if len(self._counters) != len(before):
            return None
        for folder, first, last in zip(self._packages, before, self._counters, strict=True):
            if last < first:
                # The counter has wrapped round.
                last += (read_int(folder / "max_energy_range_uj") or 0) + 1
            total += last - first
        return total / 1e6 if total >= 0 else None

    def _read_counters(self) -> list[int]:
        values = [read_int(folder / "energy_uj") for folder in self._packages]
        return [value for value in values if value is not None]

    def _read_watts(self) -> float | None:
        match self.source:
            case "hwmon":
                return self._hwmon_watts()
            case "battery":
                return self._battery_watts()
            case "pmic":
                return pmic_watts()
        return None

    def _hwmon_watts(self) -> float | None:
        values = [value / 1e6 for _, value in _hwmon(self._root, "power")]
        return sum(values) if values else self._shunt_watts()

    def _shunt_watts(self) -> float | None:
        """Power by the currents and voltages of INA chips that do not multiply them (INA3221)."""
        watts = []
        for folder in sorted((self._root / "sys/class/hwmon").glob("hwmon*")):
            if not (read_text(folder / "name") or "").startswith("ina"):
                continue
            for path in sorted(folder.glob("curr*_input")):
                volts = read_int(folder / path.name.replace("curr", "in"))
                amperes = read_int(path)
                if volts is not None and amperes is not None:
                    watts.append(volts * amperes / 1e6)
        return sum(watts) if watts else None

    def _battery_watts(self) -> float | None:
        for folder in sorted((self._root / "sys/class/power_supply").glob("*")):
            # On mains power the battery's current is not the machine's power.
            if read_text(folder / "type") != "Battery" or read_text(folder / "status") != "Discharging":
                continue
            power = read_int(folder / "power_now")
            if power is not None:
                return abs(power) / 1e6
            current, voltage = read_int(folder / "current_now"), read_int(folder / "voltage_now")
            if current is not None and voltage is not None:
                return abs(current) / 1e6 * voltage / 1e6
        return None


def on_battery(root: Path = ROOT) -> bool:
    """Return True if the machine runs on a battery."""
    return any(
        read_text(folder / "type") == "Battery" and read_text(folder / "status") == "Discharging"
        for folder in (root / "sys/class/power_supply").glob("*")
    )


def pmic_watts() -> float | None:
    """Return the watts of all outputs of a Raspberry Pi 5's power chip; None on other machines.

    Lines of `vcgencmd pmic_read_adc` are `NAME_A current(0)=0.5A` and `NAME_V volt(1)=3.3V`; what the board
    takes beside these outputs is not measured.
    """
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for name, unit, value in re.findall(r"(\w+)_([AV])\s+\w+\(\d+\)=([\d.]+)[AV]", _pmic_text()):
        (amperes if unit == "A" else volts)[name] = float(value)
    powers = [amperes[name] * volts[name] for name in amperes if name in volts]
    return sum(powers) if powers else None


def _pmic_text() -> str:
    """Output of the firmware's tool; "" where there is none."""
    import subprocess  # imported here, because few machines have the tool

    tool = shutil.which("vcgencmd")
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool, "pmic_read_adc"], capture_output=True, text=True, timeout=2.0)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
