"""The governor on a machine of the test's own making: sensors that a model of heat writes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from edgellm.engine.governor import ECO_SHARE, LEAST_SHARE, Governor
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.options import GenerateOptions
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import UsageError
from tests.support.fake_model import Collected, CountingBackend

STEP_S = 0.2
ZONE = "sys/class/thermal/thermal_zone0"


class Machine:
    """Time that passes by steps and rests, and a processor that they heat and cool.

    Heat follows dT/dt = (ambient + rise * load - T) / tau; the sensor has whole degrees, as many boards'
    have.
    """

    def __init__(self, root: Path, *, ambient: float = 25.0, rise: float = 75.0, tau_s: float = 40.0) -> None:
        self.root, self.now = root, 0.0
        self.ambient, self.rise, self.tau_s = ambient, rise, tau_s
        self.temperature = ambient
        folder = root / ZONE
        folder.mkdir(parents=True)
        (folder / "type").write_text("cpu-thermal\n")
        self._sensor = folder / "temp"
        self._shown = 0
        self.show()

    def show(self) -> None:
        shown = int(self.temperature)
        if shown != self._shown:
            self._shown = shown
            self._sensor.write_text(f"{shown * 1000}\n")

    def remove_sensor(self) -> None:
        self._sensor.unlink()

    def clock(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self._pass(seconds, 1.0)

    def sleep(self, seconds: float) -> None:
        self._pass(seconds, 0.0)

    def _pass(self, seconds: float, load: float) -> None:
        end = self.ambient + self.rise * load
        self.temperature = end + (self.temperature - end) * math.exp(-seconds / self.tau_s)
        self.now += seconds
        self.show()


def _run(machine: Machine, governor: Governor, seconds: float) -> list[tuple[float, float, float]]:
    """(time, seconds from one step's end to the next one's, temperature) of each step."""
    steps = []
    end = machine.now + seconds
    while machine.now < end:
        before = machine.now
        machine.work(STEP_S)
        governor.rest(STEP_S)
        steps.append((machine.now, machine.now - before, machine.temperature))
    return steps


def _governor(machine: Machine, max_temp: float | None, *, eco: bool = False) -> Governor:
    return Governor(max_temp, eco=eco, root=machine.root, clock=machine.clock, sleep=machine.sleep)


@pytest.mark.parametrize(("max_temp", "tau_s"), [(60.0, 30.0), (75.0, 12.0), (80.0, 60.0)])
def test_a_limit_holds_and_the_pace_is_even(tmp_path: Path, max_temp: float, tau_s: float) -> None:
    machine = Machine(tmp_path, tau_s=tau_s)
    steps = _run(machine, _governor(machine, max_temp), 300)
    assert max(temperature for _, _, temperature in steps) < max_temp + 2.5
    settled = [(pace, temperature) for time, pace, temperature in steps if time > 180]
    assert all(abs(temperature - max_temp) < 2.5 for _, temperature in settled)
    # The pace is the one that the heat allows, and no step waits for long.
    share = (max_temp - machine.ambient) / machine.rise
    paces = [pace for pace, _ in settled]
    assert sum(paces) / len(paces) == pytest.approx(STEP_S / share, rel=0.1)
    assert max(paces) < 1.6 * STEP_S / share
    assert all(abs(a - b) < 0.5 * STEP_S / share for a, b in itertools.pairwise(paces))


def test_a_machine_that_stays_cool_is_not_slowed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert all(pace == pytest.approx(STEP_S) for _, pace, _ in _run(machine, _governor(machine, 105.0), 120))


def test_a_machine_that_is_too_hot_in_any_case_goes_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ambient=70.0)
    governor = _governor(machine, 60.0)
    steps = _run(machine, governor, 250)
    assert governor.share == LEAST_SHARE
    assert steps[-1][1] == pytest.approx(STEP_S / LEAST_SHARE)


def test_a_long_step_is_made_up_for_in_short_rests(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ambient=70.0)
    governor = _governor(machine, 60.0)
    _run(machine, governor, 250)
    before = machine.now
    governor.rest(10.0)
    assert machine.now - before == 2.0
    governor.rest(STEP_S)
    assert machine.now - before == 4.0


def test_a_sensor_is_needed_and_may_vanish(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="temperature sensor"):
        Governor(70.0, root=tmp_path)
    machine = Machine(tmp_path)
    governor = _governor(machine, 40.0)
    _run(machine, governor, 100)
    assert governor.share < 0.5
    machine.remove_sensor()
    machine.show = lambda: None  # type: ignore[method-assign]
    _run(machine, governor, 2)
    assert governor.share == 1.0


def test_a_battery_is_spared_while_it_is_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    battery = tmp_path / "sys/class/power_supply/BAT0"
    battery.mkdir(parents=True)
    (battery / "type").write_text("Battery\n")
    (battery / "status").write_text("Discharging\n")
    governor = _governor(machine, None, eco=True)
    assert _run(machine, governor, 10)[-1][1] == pytest.approx(STEP_S / ECO_SHARE)
    (battery / "status").write_text("Charging\n")
    assert _run(machine, governor, 10)[-1][1] == pytest.approx(STEP_S)
    assert _governor(machine, None).share == 1.0


@pytest.mark.parametrize("values", [{"max_temp": 20.0}, {"max_temp": 200.0}, {"on_battery": "never"}])
def test_limits_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        LoadOptions(**values)  # type: ignore[arg-type]


def test_every_step_of_a_scheduler_is_followed_by_its_rest() -> None:
    rested: list[float] = []

    class Resting(Governor):
        def __init__(self) -> None:
            super().__init__(None)

        def rest(self, worked_s: float) -> None:
            rested.append(worked_s)

    times = itertools.count()
    scheduler = Scheduler(
        CountingBackend(), frozenset(), governor=Resting(), clock=lambda: float(next(times))
    )
    answer = Collected([1, 2, 3, 4, 5], GenerateOptions(temperature=0.0, max_tokens=3))
    scheduler.submit(answer.request)
    while scheduler.busy:
        scheduler.step()
    assert rested == [1.0] * 3
    scheduler.step()
    assert len(rested) == 3
