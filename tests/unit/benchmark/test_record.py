"""Records of benchmarks: what they hold, what they say about themselves, and their comparison."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.benchmark import recording
from edgellm.benchmark.comparison import Named, interval, problems, ratio, table
from edgellm.benchmark.page import page
from edgellm.benchmark.record import Pace, Record, complete, load, save
from edgellm.benchmark.runner import Runner, Trial, cache_tokens
from edgellm.benchmark.watch import Moment, Watch
from edgellm.cli import main
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import FileError, FormatError
from tests.support.tiny_model import tiny_builder
from tests.unit.device.conftest import Tree, tree

__all__ = ["tree"]


def _row(test: str, rates: list[float], **more: Any) -> dict[str, Any]:
    return {
        "test": test,
        "model_type": "tiny Q4_0",
        "isa": "avx2",
        "n_threads": 2,
        "samples_ts": rates,
        "median_ts": sorted(rates)[len(rates) // 2],
        "prompt_percent": None,
        "read_percent": 50.0,
        "energy_j_per_token": None,
        "tokens_hash": "a" * 16,
        "tokens_right": True,
        **more,
    }


def _moment(t_s: float, **more: Any) -> Moment:
    values = {"temperature_c": 50.0, "clock_mhz": 2000.0, "throttled": False, "watts": 5.0}
    return Moment(t_s, **(values | more))


def _record(**more: Any) -> Record:
    values: dict[str, Any] = {
        "device": {"board": "Board <1>", "memory": 8_000_000_000, "core_kinds": [{"n": 4, "max_mhz": None}]},
        "model": {"file": "tiny.gguf", "bytes": 1000, "hash": "0" * 16},
        "load_before": 0.0,
        "power_source": "hwmon",
        "idle_s": 4.0,
        "idle_watts": 2.0,
        "rows": [
            _row("pp512", [100.0, 110.0, 105.0]),
            _row("tg128", [10.0, 10.5, 9.5], energy_j_per_token=0.7),
        ],
        "moments": [_moment(float(t)) for t in range(1, 20)],
    }
    record = Record(**(values | more))
    complete(record)
    return record


def test_a_clean_record_has_no_problems_and_its_energy_is_without_the_idle_machines() -> None:
    record = _record()
    assert record.problems == []
    assert record.rows[1]["net_j_per_token"] == pytest.approx(0.7 - 2.0 / 10.0)
    assert record.rows[0]["net_j_per_token"] is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"rows": [_row("tg8", [1.0], tokens_right=False)]}, "tokens are wrong"),
        ({"moments": [_moment(5.0), _moment(9.0, throttled=True)]}, r"throttled \(first after 9 s\)"),
        ({"moments": [_moment(5.5), _moment(9.0, clock_mhz=1200.0)]}, "clock fell from 2000 to 1200 MHz"),
        ({"load_before": 1.7}, "a load of 1.7"),
    ],
)
def test_a_record_says_why_it_is_worth_less(more: dict[str, Any], says: str) -> None:
    (problem,) = _record(**more).problems
    assert re.search(says, problem)


def test_a_slow_clock_of_the_idle_machine_is_no_problem() -> None:
    moments = [_moment(2.0, clock_mhz=600.0), *(_moment(float(t)) for t in range(6, 9))]
    assert _record(moments=moments).problems == []


def test_records_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = _record(sustained_test="tg128", sustained=[Pace(10.0 + i, 10.0 - i / 10) for i in range(40)])
    save(record, path)
    assert load(path) == record
    assert record.burst_tok_s == pytest.approx(9.85)
    assert record.end_tok_s == pytest.approx(6.55)
    with pytest.raises(FileError, match="--save"):
        load(tmp_path / "absent.json")
    content = json.loads(path.read_text())
    for broken in ("[]", "{", json.dumps({**content, "form": "x"})):
        path.write_text(broken)
        with pytest.raises(FormatError):
            load(path)
    for key, value in (("rows", [{"test": "x"}]), ("moments", [1]), ("more", 1)):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(FormatError, match="damaged"):
            load(path)
    content["rows"][0]["samples_ts"] = [0.0]
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="positive"):
        load(path)


def test_intervals_are_students() -> None:
    # scipy.stats.t.interval(0.95, 4, 3, scipy.stats.sem([1, 2, 3, 4, 5]))
    assert interval([1, 2, 3, 4, 5]) == pytest.approx((3.0, 1.036757, 4.963243), abs=1e-3)
    assert np.isnan(interval([2.0]).low)
    # Logarithms of equal spread: the interval is that of two samples with 8 degrees of freedom.
    values = np.exp([0.1, 0.2, 0.3, 0.4, 0.5])
    found = ratio([2 * value for value in values], list(values))
    half = 2.306 * np.sqrt(2 * 0.025 / 5)
    assert found == pytest.approx((2.0, 2 * np.exp(-half), 2 * np.exp(half)), rel=1e-6)


def test_the_table_has_ratios_to_the_first_record_with_a_test() -> None:
    first = _record()
    second = _record(rows=[_row("tg128", [20.0, 21.0, 19.0]), _row("tg8", [1.0])])
    text = table([Named("a", first), Named("b", second)])
    (line,) = [line for line in text.splitlines() if "| tg128 | b |" in line]
    assert "20.0 (17.5 to 22.5)" in line
    assert "2.00 (" in line
    assert "| tg8 | b | avx2 | 2 | 1.0 |" in text


def test_other_tokens_of_one_instruction_set_are_said() -> None:
    first, second = Named("a", _record()), Named("b", _record())
    assert problems([first, second]) == []
    second.record.rows[1]["tokens_hash"] = "b" * 16
    (problem,) = problems([first, second])
    assert "tg128: records of one instruction set have different tokens" in problem
    second.record.rows[1]["isa"] = "avx512vnni"
    assert problems([first, second]) == []


class _Checker(HTMLParser):
    """Notes unclosed tags, and addresses of other places."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.outside += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_refers_to_nothing_outside() -> None:
    sustained = [Pace(10.0 + i, 10.0 - i / 100) for i in range(400)]
    moments = [_moment(float(t), temperature_c=50.0 + t / 20) for t in range(1, 420)]
    first = _record(sustained_test="tg128", sustained=sustained, moments=moments)
    text = page([Named("<a>", first), Named("b", _record(rows=[_row("tg128", [3.0], tokens_right=False)]))])
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.outside == []
    assert checker.seen.count("svg") == 4
    assert "<a>" not in text
    assert "&lt;a&gt;" in text
    assert "Board &lt;1&gt;" in text
    assert "tokens are wrong" in text


def test_the_page_leaves_out_what_no_record_tells() -> None:
    cores: list[dict[str, Any]] = [{"n": 2, "max_mhz": 2400.0, "speed": 1.0}]
    device = {"board": "Pi", "governor": None, "core_kinds": cores, "n_allowed": 2}

    def shown() -> str:
        rows = [_row("tg128", [3.0, 3.1])]
        return page([Named("a", _record(device=device, rows=rows, power_source=None, idle_watts=None))])

    text = shown()
    assert "J/token" not in text
    assert "governor" not in text
    assert "idle power" not in text
    assert "<td>2 cores, up to 2400 MHz</td>" in text
    assert "<td>CPUs that edgellm may use</td><td>2</td>" in text
    cores.append({"n": 4, "max_mhz": None, "speed": 0.5})
    assert "<td>2 cores, up to 2400 MHz, speed 1.0; 4 cores, speed 0.5</td>" in shown()


def test_a_watch_reads_what_happens(tree: Tree) -> None:
    folder = "sys/devices/system/cpu/cpu0"
    root = tree(
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "48000",
            "sys/class/hwmon/hwmon0/name": "ina226",
            "sys/class/hwmon/hwmon0/power1_input": "3000000",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
            f"{folder}/cpufreq/scaling_cur_freq": "2400000",
        }
    )
    with Watch(root, interval_s=0.01) as watch:
        while len(watch.moments) < 3:
            time.sleep(0.005)
        tree({"sys/class/thermal/thermal_zone0/temp": "81000"})
        tree({"sys/class/hwmon/hwmon0/power1_input": "7000000"})
        tree({"sys/devices/platform/soc/soc:firmware/get_throttled": "4"})
        n_seen = len(watch.moments)
        while len(watch.moments) < n_seen + 3:
            time.sleep(0.005)
    first, last = watch.moments[0], watch.moments[-1]
    assert (first.temperature_c, first.throttled) == (48.0, False)
    assert (last.temperature_c, last.throttled) == (81.0, True)
    assert first.watts == pytest.approx(3.0)
    assert last.watts == pytest.approx(7.0)
    assert watch.source == "hwmon"
    assert watch.mean_watts(0.0, first.t_s) == pytest.approx(3.0)
    assert watch.mean_watts(1000.0, 2000.0) is None


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recording, "IDLE_S", 0.01)
    monkeypatch.setattr(recording, "load_average", lambda root: 0.0)
    monkeypatch.chdir(tmp_path)
    return tiny_builder().write(tmp_path / "tiny.gguf")


def test_tokens_are_computed_again_as_a_prompt(model: Path) -> None:
    trials = [Trial(0, 6), Trial(0, 4, 40), Trial(20, 5), Trial(8, 0)]
    options = LoadOptions(threads=1, context=64, cache_tokens=cache_tokens(trials), batch=16)
    runner = Runner(model, options, trials)
    try:
        results = {trial: runner.run(trial, 2) for trial in trials}
        assert [runner.same_tokens(*one) for one in results.items()] == [True, True, True, None]
        assert not any(result.unsteady for result in results.values())
        wrong = replace(results[trials[0]], tokens_hash="0" * 16)
        assert runner.same_tokens(trials[0], wrong) is False
        step = runner.backend.step

        def faulty(tokens: Any, sequences: Any, outputs: Any, n_largest: int = 0) -> Any:
            logits = np.array(step(tokens, sequences, outputs, n_largest))
            return -logits if len(tokens) > 1 and all(outputs) else logits

        runner.backend.step = faulty  # type: ignore[method-assign]
        assert runner.same_tokens(trials[0], results[trials[0]]) is False
    finally:
        runner.close()


def test_bench_saves_a_record_and_compares_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["bench", str(model), "-p", "8", "-n", "4", "-r", "3", "-t", "1", "--no-cold", "--no-limits"]
    assert main([*common, "--save", "a.json", "--sustain", "0.2"]) == 0
    assert main([*common, "--save", "b.json"]) == 0
    capsys.readouterr()
    first = load(tmp_path / "a.json")
    assert first.model["file"] == "tiny.gguf"
    assert first.device["n_cpus"] >= 1
    assert [row["tokens_right"] for row in first.rows] == [None, True]
    assert all(row["span_s"][0] < row["span_s"][1] for row in first.rows)
    assert first.sustained_test == "tg4"
    assert first.sustained[-1].t_s - first.sustained[0].t_s < 5
    assert main(["bench", "compare", "a.json", "b.json"]) == 0
    out = capsys.readouterr()
    assert "| tg4 | b |" in out.out
    assert "compare.html" in out.err
    assert (tmp_path / "compare.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare"], "needs records"),
        (["compare", "absent.json"], "no such file"),
        (["m.gguf", "-m", "m.gguf"], "both name models"),
        (["--sustain", "1m", "-m", "tiny.gguf"], "--save"),
        (["--sustain", "soon"], "length of time"),
        (["-m", "tiny.gguf", "--save", "none/a.json"], "no folder none"),
        (["-m", "tiny.gguf", "--save", "a.json", "-t", "1,2"], "one number of threads"),
        (["-m", "tiny.gguf", "--save", "a.json", "--draft-max", "7"], "speculative"),
    ],
)
def test_wrong_uses_are_said(
    model: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) != 0
    assert says in capsys.readouterr().err
