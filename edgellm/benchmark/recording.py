"""Recording of a benchmark: the idle machine, the tests, and a run of minutes, under watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellm.benchmark.record import Pace, Record, complete, model_identity
from edgellm.benchmark.report import Row
from edgellm.benchmark.runner import Result, Runner, Trial
from edgellm.benchmark.watch import Watch
from edgellm.device.describe import describe_device, load_average
from edgellm.device.sysfs import ROOT

# Seconds in which the machine does nothing, for its power then.
IDLE_S = 4.0


class Recorder:
    """A record that grows while tests run."""

    def __init__(self, model: Path, watch: Watch, root: Path, idle_s: float) -> None:
        self._watch = watch
        self.record = Record(
            describe_device(root), model_identity(model), load_average(root), watch.source, idle_s
        )

    def add(self, runner: Runner, result: Result, row: Row, began_s: float) -> Row:
        """Add a test that began at a second of the watch; checks its tokens."""
        ended_s = self._watch.now_s
        row["model_filename"] = self.record.model["file"]  # a record is given to others
        row["span_s"] = [began_s, ended_s]
        row["tokens_right"] = False if result.unsteady else runner.same_tokens(result.test, result)
        self.record.rows.append(row)
        return row

    def sustain(self, runner: Runner, test: Trial, seconds: float, say: Callable[[str], None]) -> None:
        """Repeat a test for minutes."""
        self.record.sustained_test = test.name
        said = 0.0
        for tok_s in runner.sustain(test, seconds):
            now = self._watch.now_s
            self.record.sustained.append(Pace(now, tok_s))
            if now - said >= 10:
                said = now
                say(f"sustained {test.name}: {tok_s:.2f} tok/s")

    @property
    def now_s(self) -> float:
        return self._watch.now_s


@contextmanager
def recording(model: Path, *, root: Path = ROOT, idle_s: float = IDLE_S) -> Iterator[Recorder]:
    """Watch the machine, idle first; the record is complete at the end of the block."""
    load = load_average(root)
    with Watch(root) as watch:
        recorder = Recorder(model, watch, root, idle_s)
        recorder.record.load_before = load
        time.sleep(idle_s)
        yield recorder
    record = recorder.record
    record.moments = watch.moments
    record.idle_watts = watch.mean_watts(0.0, idle_s)
    complete(record)
