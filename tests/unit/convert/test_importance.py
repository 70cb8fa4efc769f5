"""Importances: their collection, their file form, and a lower error of important columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.cli import main
from edgellm.convert.calibration import calibrate
from edgellm.convert.importance import Statistics, read_statistics, write_statistics
from edgellm.errors import FormatError
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.program.interpreter import Interpreter
from tests.support.checkpoints import write_checkpoint
from tests.support.references import float_weights, shapes

pytest.importorskip("edgellm._native", reason="needs the built extension module")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "f32.gguf"
    folder = write_checkpoint(tmp_path / "Model")
    assert main(["convert", str(folder), str(path), "--type", "F32", "--no-receipt"]) == 0
    return path


def test_every_matrix_is_seen_the_head_too(model: Path) -> None:
    with GGUFFile.open(model) as file:
        program, weights = build(file.metadata, shapes(file)), float_weights(file)
    ids = [5, 80, 17, 200, 33]
    found = calibrate(program, weights, [ids], threads=1).statistics
    matrices = {name for name, shape in program.weights.items() if len(shape) == 2}
    assert set(found.sums) == matrices
    assert all((counts == len(ids)).all() for counts in found.counts.values())
    hidden = Interpreter(program, weights).hidden(ids)
    np.testing.assert_allclose(found.sums["token_embd.weight"][0], np.square(hidden).sum(axis=0), rtol=1e-5)
    for values in found.importance().values():
        assert values.ndim == 1
        assert 0.9 < values.mean() < 1.1


def test_statistics_come_back_from_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stack = rng.random((3, 8)).astype(np.float32).astype(np.float64)
    found = Statistics(
        {"a.weight": stack[:1], "b_exps.weight": stack},
        {"a.weight": np.ones(1), "b_exps.weight": np.array([2.0, 0, 5])},
    )
    path = tmp_path / "imatrix.gguf"
    write_statistics(path, found, "text")
    back = read_statistics(path)
    for name in found.sums:
        np.testing.assert_array_equal(back.sums[name], found.sums[name])
        np.testing.assert_array_equal(back.counts[name], found.counts[name])
    importance = back.importance()
    assert importance["a.weight"].shape == (8,)
    assert importance["b_exps.weight"].shape == (3, 8)
    with GGUFFile.open(path) as file:
        assert file.metadata["general.type"] == "imatrix"
        assert file.metadata["imatrix.datasets"] == ["text"]
        assert file.tensors["b_exps.weight.in_sum2"].shape == (3, 8)
        assert file.tensors["b_exps.weight.counts"].shape == (3, 1)


def test_a_model_is_no_importance_file(model: Path) -> None:
    with pytest.raises(FormatError, match="expected 'imatrix'"):
        read_statistics(model)


def kld(path: Path) -> float:
    with GGUFFile.open(path) as file:
        return float(str(file.metadata["edgellm.quality.kld"]))


def test_less_is_lost_with_a_file_or_a_short_text_and_least_with_a_long_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellm.convert.calibrating.FULL_TOKENS", 3072)
    monkeypatch.setattr("edgellm.convert.receipt.CALIBRATED_TOKENS", 1024)
    imatrix = tmp_path / "imatrix.gguf"
    assert main(["eval", "imatrix", str(model), str(imatrix)]) == 0
    lost = {}
    for name, options in (
        ("fast", ["--fast"]),
        ("file", ["--imatrix", str(imatrix)]),
        ("short", []),
        ("long", ["--calibrate", "default"]),
    ):
        out = tmp_path / f"{name}.gguf"
        assert main(["quantize", str(model), str(out), "--type", "Q4_0", *options]) == 0
        lost[name] = kld(out)
    assert lost["file"] < lost["fast"]
    assert lost["short"] < lost["fast"]
    assert lost["long"] < 0.8 * lost["short"]


def test_importances_of_another_model_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imatrix = tmp_path / "imatrix.gguf"
    write_statistics(
        imatrix,
        Statistics({"blk.0.ffn_up.weight": np.ones((1, 9))}, {"blk.0.ffn_up.weight": np.ones(1)}),
        "x",
    )
    assert main(["quantize", str(model), str(tmp_path / "x.gguf"), "--imatrix", str(imatrix)]) == 1
    assert "of another model" in capsys.readouterr().err
    assert not (tmp_path / "x.gguf").exists()
