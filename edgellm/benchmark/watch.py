"""Watch of a machine while it works: temperature, clock, throttling and power, once a second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edgellm.device.sensors import EnergyMeter, Reading, read_sensors, throttled_between
from edgellm.device.sysfs import ROOT

INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Sensors `t_s` seconds after the watch began; None for those that the machine does not have.

    throttled: since the moment before. watts: mean since the moment before.
    """

    t_s: float
    temperature_c: float | None
    clock_mhz: float | None
    throttled: bool | None
    watts: float | None


class Watch:
    """Reads the sensors on a thread of its own, from `__enter__` to `__exit__`."""

    def __init__(self, root: Path = ROOT, interval_s: float = INTERVAL_S) -> None:
        self.moments: list[Moment] = []
        self._root = root
        self._interval_s = interval_s
        self._meter = EnergyMeter(root)
        self._begun = 0.0
        self._last: Reading | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgellm-watch", daemon=True)

    @property
    def source(self) -> str | None:
        """Source of the power, as `EnergyMeter` names it."""
        return self._meter.source

    @property
    def now_s(self) -> float:
        """Seconds since the watch began."""
        return time.monotonic() - self._begun

    def __enter__(self) -> Watch:
        self._begun = time.monotonic()
        self._last = read_sensors(self._root)
        self._meter.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.look()

    def look(self) -> Moment:
        """Read the sensors now; only the watch's thread calls it while the watch lasts."""
        reading = read_sensors(self._root)
        throttled = None if self._last is None else throttled_between(self._last, reading)
        self._last = reading
        watts = self._meter.sample()
        moment = Moment(self.now_s, reading.temperature_c, reading.clock_mhz, throttled, watts)
        self.moments.append(moment)
        return moment

    def mean_watts(self, start_s: float, end_s: float) -> float | None:
        """Mean power of the moments in a span of time; None if there is none."""
        watts = [m.watts for m in self.moments if start_s < m.t_s <= end_s and m.watts is not None]
        return sum(watts) / len(watts) if watts else None

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.look()
