"""`edgellm doctor`: its findings about packages, and about the models that a machine can run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm.benchmark.fitting import Fit
from edgellm.benchmark.prediction import Prediction
from edgellm.cli import main
from edgellm.commands.doctor import _version
from edgellm.errors import BackendError
from tests.support.tiny_model import write_tiny_model


def test_a_package_on_the_path_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lies_about.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert _version("lies_about", {}) == "of unknown version"
    assert _version("lies_nowhere", {}) is None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GB of memory, of which 8 are free, that stream 30 GB a second."""

    def fit_size(n_bytes: int, parameters: float, *args: object, **facts: object) -> Fit:
        memory = n_bytes + 10**9
        fits = True if memory <= 8e9 else None if memory <= 13.6e9 else False
        return Fit(n_bytes, memory, 4096, fits, Prediction(200e9 / parameters, 30e9 / n_bytes, 0.4))

    monkeypatch.setattr("edgellm.commands.fit.fit_size", fit_size)
    monkeypatch.setattr("edgellm.commands.doctor.total_memory", lambda: 16 * 10**9)


def test_the_models_that_a_machine_can_run(machine: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline"]) == 0
    facts, _, table = capsys.readouterr().out.partition("\nNAME")
    rows = {cells[0]: cells for line in table.splitlines()[1:] if (cells := line.split(maxsplit=7))}
    assert rows["7B"][1:] == ["4.3", "GB", "~5.3", "GB", "~29", "~6.9", "yes, slow"]
    assert rows["14B"][-1] == "if other programs are closed, slow"
    assert rows["32B"][-1] == "no"
    assert "70B" not in rows
    # Memory would do for 4B at 12 tokens a second, so the choice is as without a name.
    assert "suits         qwen3.5-4b" in facts

    assert main(["doctor", "--offline", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["sizes"]] == ["0.5B", "1B", "3B", "7B", "14B", "32B"]
    assert found["sizes"][0]["answer_tok_s"] == pytest.approx(96.8, abs=0.1)


def test_a_slow_machine_suits_a_smaller_model(
    machine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "edgellm.commands.fit.answers_fast"
    monkeypatch.setattr(quick, lambda model, book: model.parameters < 2e9)
    assert main(["doctor", "--offline"]) == 0
    assert "suits         qwen3-1.7b" in capsys.readouterr().out
    monkeypatch.setattr(quick, lambda model, book: False)
    assert main(["doctor", "--offline"]) == 0
    assert "suits         smollm2" in capsys.readouterr().out


def test_a_machine_that_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: object, **facts: object) -> Fit:
        raise BackendError("no memory for a probe")

    monkeypatch.setattr("edgellm.commands.fit.fit_size", fails)
    assert main(["doctor", "--offline"]) == 0
    out, err = capsys.readouterr()
    assert "suits" in out
    assert "NAME" not in out
    assert err == "edgellm: no speed is predicted: no memory for a probe\n"


def test_a_named_model_is_checked_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    assert main(["doctor", str(model), "--offline", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"] == []
    assert found["checks"][-1]["check"] == "fit"
