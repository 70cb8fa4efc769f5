"""`edgellm eval`: figures that can be computed by hand, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm.cli import main
from tests.support.checkpoints import write_checkpoint

pytest.importorskip("edgellm._native", reason="needs the built extension module")


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    folder = write_checkpoint(tmp_path / "Model")
    paths = tmp_path / "f32.gguf", tmp_path / "q4.gguf"
    for path, kind in zip(paths, ("F32", "Q4_0"), strict=True):
        assert main(["convert", str(folder), str(path), "--type", kind, "--no-receipt"]) == 0
    return paths


def test_perplexity_and_divergence_are_those_of_the_logits(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The theory of the others, then the rest.")
    rows = []
    for path in models:
        with edgellm.load(str(path), threads=1) as model:
            ids = model.tokenize(text.read_text(), add_special=True)
            logits = model.logits(ids).astype(np.float64)
        rows.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    losses = [-p[np.arange(len(ids) - 1), ids[1:]].mean() for p in rows]
    capsys.readouterr()
    assert main(["eval", "kld", str(models[1]), str(models[0]), "--text", str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == len(ids)
    assert found["top1"] == pytest.approx((rows[0].argmax(axis=1) == rows[1].argmax(axis=1)).mean())
    expected = (np.exp(rows[0]) * (rows[0] - rows[1])).sum(axis=1).mean()
    assert found["kld"] == pytest.approx(expected, rel=1e-3)
    assert found["base_perplexity"] == pytest.approx(np.exp(losses[0]), rel=1e-4)
    assert main(["eval", "perplexity", str(models[1]), "--text", str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["perplexity"] == pytest.approx(np.exp(losses[1]), rel=1e-4)
    spread = -rows[1][np.arange(len(ids) - 1), ids[1:]]
    error = np.exp(losses[1]) * spread.std(ddof=1) / np.sqrt(len(spread))
    assert found["perplexity_error"] == pytest.approx(error, rel=1e-4)
    assert main(["eval", "perplexity", str(models[1]), "--text", str(text)]) == 0
    assert f"perplexity {found['perplexity']:.6g} ± {error:.2g}, tokens {len(ids)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["speed", "M"], 2, "'speed' is not known"),
        (["kld", "M"], 2, "needs two models"),
        (["perplexity", "M", "M"], 2, "needs one model"),
        (["perplexity", "M", "--text", "/nonexistent/text"], 2, "cannot be read"),
        (["perplexity", "M", "--tokens", "1"], 2, "--tokens is 1"),
        (["imatrix", "M", "M"], 1, "exists already"),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str],
    status: int,
    message: str,
    models: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = [str(models[0]) if part == "M" else part for part in arguments]
    assert main(["eval", *named]) == status
    assert message in capsys.readouterr().err
