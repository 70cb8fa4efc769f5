from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm.cli import main
from tests.support.references import official_gguf, unpacked
from tests.support.tiny_model import tiny_builder

__all__ = ["unpacked"]


@pytest.fixture(scope="module")
def model(unpacked: Path) -> Path:
    return official_gguf("llama", unpacked)


def bench(model: Path, *arguments: str) -> int:
    common = ["--backend", "interpreter", "--no-limits", "--no-cold", "-r", "1"]
    return main(["bench", "-m", str(model), *common, *arguments])


def test_lists_are_swept(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = bench(
        model, "-p", "4,8", "-n", "2", "-pg", "3,2", "-d", "0,5", "-b", "1,2", "-t", "1,2", "-o", "json"
    )
    assert status == 0
    rows = json.loads(capsys.readouterr().out)
    found = {(r["n_prompt"], r["n_gen"], r["n_depth"], r["n_parallel"], r["n_threads"]) for r in rows}
    kinds = [(4, 0), (8, 0), (0, 2), (3, 2)]
    assert found == {(p, n, d, b, t) for p, n in kinds for d in (0, 5) for b in (1, 2) for t in (1, 2)}
    assert len(rows) == len(found)


def test_several_models(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "bench",
                "-m",
                f"{model},{model}",
                *["--backend", "interpreter", "--no-limits", "--no-cold"],
                *["-p", "0", "-n", "2", "-r", "1", "-t", "1", "-o", "jsonl"],
            ]
        )
        == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["model_filename"] for row in rows] == [str(model)] * 2
    assert rows[0]["tokens_hash"] == rows[1]["tokens_hash"]


def test_a_short_test_leaves_cold_starts_their_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The context of a test of 12 tokens does not hold a prompt in a chat template."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_builder().build())
    arguments = ["-p", "8", "-n", "4", "-r", "1", "-t", "1", "--no-limits", "-o", "json"]
    assert main(["bench", "-m", str(path), *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["cold_start_s"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-t", "0"], 2, "-t is 0"),
        (["-t", "-3"], 2, "-t is -3"),
        (["-t", "100000"], 2, "-t is 100000"),
        (["-t", "two"], 2, "'two' is not a whole number"),
        (["-t", "1,"], 2, "'1,' is not a whole number"),
        (["-p", "-1"], 2, "-p is -1"),
        (["-n", "-1"], 2, "-n is -1"),
        (["-d", "-1"], 2, "-d is -1"),
        (["-b", "0"], 2, "-b is 0"),
        (["-b", "99999"], 2, "99999 sequences at once exceed the context"),
        (["-ub", "0"], 2, "-ub is 0"),
        (["-r", "0"], 2, "-r is 0"),
        (["-pg", "5"], 2, "-pg is '5'"),
        (["-pg", "5,x"], 2, "-pg is '5,x'"),
        (["-p", "0", "-n", "0"], 2, "nothing to time"),
        (["-o", "xml"], 2, "xml"),
        (["-p", "9999999"], 2, "9999999"),
        (["-p", "64", "-c", "32"], 2, "needs 64 tokens and the context has 32"),
        (["-c", "-1"], 2, "-c is -1"),
        (["--max-memory", "1k"], 1, "1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert bench(model, *arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path / "none.gguf") == 1
    assert "none.gguf" in capsys.readouterr().err
    assert main(["bench", "-m", "a.gguf,,b.gguf"]) == 2
