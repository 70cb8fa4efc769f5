"""Governor: rests between steps that keep a device below a temperature, or spare its battery.

A processor that overheats falls to a fraction of its clock and recovers, again and again. Short rests after
each step, all of the same share of its time, hold the temperature instead, and answers keep an even pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgellm.device.sensors import on_battery, temperature_c
from edgellm.device.sysfs import ROOT
from edgellm.errors import UsageError

# Share of its time that the engine works on a battery with `eco`.
ECO_SHARE = 0.5
LEAST_SHARE = 0.1
# Seconds between looks at the sensors.
LOOK_S = 0.5
# Seconds that the temperature's trend is carried on: heat reaches a sensor late.
_AHEAD_S = 4.0
# Change of the share in a second for each degree above or below the limit, and the most for all degrees.
_GAIN, _MOST_DEGREES = 0.02, 6.0
# A step of minutes is made up for in several rests, because an answer that is cancelled waits for one.
_LONGEST_REST_S = 2.0
_MOST_OWED_S = 30.0


class Governor:
    """Rests after steps. max_temp: degrees Celsius, None for no limit. eco: slower on a battery."""

    def __init__(
        self,
        max_temp: float | None,
        *,
        eco: bool = False,
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """UsageError for a limit that no sensor can watch."""
        self._max_temp = max_temp
        self._eco = eco
        self._root = root
        self._clock = clock
        self._sleep = sleep
        self._share = 1.0
        self._owed_s = 0.0
        self._looked = clock()
        self._temperature = temperature_c(root)
        self._trend = 0.0
        if max_temp is not None and self._temperature is None:
            raise UsageError(
                "--max-temp needs a temperature sensor, and this machine shows none; leave it out, or slow "
                "the engine down with fewer threads (-t)"
            )
        self._most = self._largest_share()

    @property
    def share(self) -> float:
        """Share of its time that the engine works, 1 for all of it."""
        return min(self._share, self._most)

    def rest(self, worked_s: float) -> None:
        """Sleep after a step of `worked_s` seconds."""
        self._look()
        share = self.share
        if share >= 1.0:
            self._owed_s = 0.0
            return
        self._owed_s = min(self._owed_s + worked_s * (1 / share - 1), _MOST_OWED_S)
        rest = min(self._owed_s, _LONGEST_REST_S)
        self._owed_s -= rest
        self._sleep(rest)

    def _largest_share(self) -> float:
        return ECO_SHARE if self._eco and on_battery(self._root) else 1.0

    def _look(self) -> None:
        """Read the sensors, if it is time, and set the share by the temperature and its trend."""
        now = self._clock()
        passed = now - self._looked
        if passed < LOOK_S:
            return
        self._looked = now
        self._most = self._largest_share()
        before, self._temperature = self._temperature, temperature_c(self._root)
        if self._max_temp is None or self._temperature is None:
            self._share = 1.0
            return
        if before is not None:
            # Sensors have whole degrees: single steps are smoothed.
            self._trend += 0.3 * ((self._temperature - before) / passed - self._trend)
        room = self._max_temp - (self._temperature + _AHEAD_S * self._trend)
        room = max(-_MOST_DEGREES, min(room, _MOST_DEGREES))
        self._share = max(LEAST_SHARE, min(self._share + _GAIN * room * min(passed, 2.0), 1.0))
