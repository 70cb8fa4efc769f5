"""Tuning's decisions on speeds of the test's own making, and the profiles that later runs use."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgellm.benchmark.tuning import Bench, Candidate, Speed, candidates, tune
from edgellm.cli import main
from edgellm.commands.profiles import Profile, keep_profile, profile_of, with_profile
from edgellm.engine.load_options import LoadOptions
from tests.support.tiny_model import tiny_builder

DEFAULT = Candidate(2, "avx2")
ONE = Candidate(1, "avx2")
OTHER = Candidate(2, "avx512")
BOTH = Candidate(1, "avx512")


def _measured(answers: Mapping[Candidate, float], prompts: Mapping[Candidate, float]) -> Callable[..., Speed]:
    return lambda candidate, repetitions: Speed(prompts.get(candidate, 100.0), answers[candidate])


def _tune(answers: Mapping[Candidate, float], prompts: Mapping[Candidate, float] | None = None) -> Candidate:
    measure = _measured(answers, prompts or {})
    return tune([DEFAULT, ONE, OTHER], measure, lambda sentence: None).best


def test_the_defaults_stay_unless_something_is_clearly_faster() -> None:
    assert _tune({DEFAULT: 10.0, ONE: 10.2, OTHER: 9.0}) == DEFAULT
    assert _tune({DEFAULT: 10.0, ONE: 12.0, OTHER: 9.0}) == ONE


def test_answers_may_not_cost_prompts() -> None:
    assert _tune({DEFAULT: 10.0, ONE: 12.0, OTHER: 9.0}, {ONE: 60.0}) == DEFAULT
    assert _tune({DEFAULT: 10.0, ONE: 12.0, OTHER: 11.0, BOTH: 9.0}, {ONE: 60.0}) == OTHER


def test_what_is_faster_apart_is_tried_together() -> None:
    assert _tune({DEFAULT: 10.0, ONE: 12.0, OTHER: 11.0, BOTH: 13.0}) == BOTH
    assert _tune({DEFAULT: 10.0, ONE: 12.0, OTHER: 11.0, BOTH: 11.5}) == ONE
    assert _tune({DEFAULT: 10.0, ONE: 12.0, OTHER: 11.0, BOTH: 13.0}, {BOTH: 50.0}) == ONE


def test_a_lucky_measurement_decides_nothing() -> None:
    def measure(candidate: Candidate, repetitions: int) -> Speed:
        lucky = candidate == ONE and repetitions > 1
        return Speed(100.0, 15.0 if lucky else 10.0)

    tuned = tune([DEFAULT, ONE], measure, lambda sentence: None)
    assert (tuned.best, tuned.gain) == (DEFAULT, 0.0)


def test_candidates_begin_with_the_defaults() -> None:
    found = candidates()
    assert found[0].threads >= 1
    assert found[0].cpus == ()
    assert len(found) == len(set(found))
    assert Candidate(1, found[0].isa) in found


def test_a_model_is_measured(tmp_path: Path) -> None:
    bench = Bench(tiny_builder().write(tmp_path / "tiny.gguf"))
    try:
        first = candidates()[0]
        speeds = [bench.measure(candidate, 1) for candidate in (first, Candidate(1, "scalar"), first)]
    finally:
        bench.close()
    assert all(speed.prompt > 0 and speed.answer > 0 for speed in speeds)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    return tiny_builder().write(tmp_path / "tiny.gguf")


PROFILE = Profile(threads=1, isa="scalar", cpus=(), gain=0.1)


def test_a_profile_belongs_to_a_model_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    assert profile_of(model) is None
    keep_profile(model, PROFILE)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert profile_of(copy) == PROFILE
    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes() + b"\0")
    assert profile_of(other) is None
    keep_profile(model, None)
    assert profile_of(copy) is None


def test_a_profile_gives_way_to_what_the_user_says(model: Path) -> None:
    keep_profile(model, PROFILE)
    options, sentence = with_profile(LoadOptions(), model, {"threads": "default", "isa": "default"})
    assert (options.threads, options.isa) == (1, "scalar")
    assert "tuned for this device: 1 thread, scalar" in sentence
    for origins in ({"threads": "flag --threads"}, {"isa": "EDGELLM_ISA"}):
        assert with_profile(LoadOptions(), model, origins) == (LoadOptions(), "")
    assert with_profile(LoadOptions(backend="interpreter"), model, {})[1] == ""


def test_a_profile_that_does_not_fit_the_device_is_left_alone(model: Path, tmp_path: Path) -> None:
    for profile in (Profile(100_000, "scalar", (), 0.1), Profile(1, "scalar", (99_999,), 0.1)):
        keep_profile(model, profile)
        assert profile_of(model) is None
    (tmp_path / "home" / "state" / "tuned.json").write_text("{")
    assert profile_of(model) is None


def test_the_command_keeps_what_is_faster_and_run_says_so(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest = Candidate(1, "scalar")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr("edgellm.benchmark.tuning.candidates", lambda: [Candidate(2, "scalar"), fastest])
    monkeypatch.setattr(
        Bench, "measure", lambda self, candidate, n: Speed(100.0, 12.0 if candidate == fastest else 10.0)
    )
    assert main(["tune", str(model)]) == 0
    assert "1 thread, scalar: answers 12.0 instead of 10.0" in capsys.readouterr().out
    assert main(["run", "-m", str(model), "-n", "2", "--temp", "0", "hello"]) == 0
    assert "tuned for this device: 1 thread, scalar" in capsys.readouterr().err
    assert main(["run", "-m", str(model), "-n", "2", "-t", "1", "--temp", "0", "hello"]) == 0
    assert "tuned" not in capsys.readouterr().err
    assert main(["tune", str(model), "--forget"]) == 0
    assert main(["run", "-m", str(model), "-n", "2", "--temp", "0", "hello"]) == 0
    assert "tuned" not in capsys.readouterr().err
    assert not json.loads(
        (Path(str(model)).parent / "home" / "state" / "tuned.json").read_text(encoding="utf-8")
    )
