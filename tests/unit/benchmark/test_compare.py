from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.compare import Engine, Measure, main, markdown
from tests.support.paths import ROOT
from tests.support.references import Reference, official_gguf, reference, unpacked

__all__ = ["unpacked"]


def test_ratios_are_taken_turn_by_turn() -> None:
    speed = Measure("prefill", "tok/s", True, {"edgellm": [10.0, 40.0, 30.0], "peer": [5.0, 10.0, 30.0]})
    assert speed.ratio("peer") == 2.0
    time = Measure("cold start", "s", False, {"edgellm": [1.0, 2.0, 3.0], "peer": [2.0, 6.0, 3.0]})
    assert time.ratio("peer") == 2.0


def test_markdown_has_a_column_for_each_engine_and_ratio() -> None:
    measure = Measure("prefill 512", "tok/s", True, {"edgellm": [3.0], "one": [1.0], "two": [2.0]})
    info = {"version": "1", "features": "AVX2"}
    result = {
        "model": "m.gguf",
        "threads": 2,
        "cpu": "chip",
        "engines": dict.fromkeys(("edgellm", "one", "two"), info),
        "measures": [measure.as_dict()],
        "quality": {"edgellm": {"perplexity": 12.5}, "one": {"perplexity": 12.75}, "two": {}},
    }
    table = [line for line in markdown([result]).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {7}
    assert "3.00 x | 1.50 x" in table[2]
    assert "12.5000 | 12.7500 | None" in table[3]


def test_markdown_has_no_row_for_what_was_not_measured() -> None:
    result = {
        "model": "m.gguf",
        "threads": 2,
        "cpu": "chip",
        "engines": {"edgellm": {"version": "1", "features": "AVX2"}},
        "measures": [],
        "quality": {"edgellm": {"same_tokens": True}},
    }
    titles = [line.split("|")[1].strip() for line in markdown([result]).splitlines() if line.startswith("|")]
    assert titles == ["", "---", "tokenizes alike"]


@pytest.mark.parametrize("n_text", ["-1", "1"])
def test_a_text_too_short_for_perplexity_is_refused(
    n_text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", "-m", "model.gguf", "--n-text", n_text])
    with pytest.raises(SystemExit):
        main()
    assert "expected 0, or 2 or more" in capsys.readouterr().err


@pytest.fixture(scope="module")
def expected() -> Reference:
    return reference("llama")


def test_an_older_checkout_takes_its_turns(
    unpacked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["-t", "1", "-r", "1", "-p", "8", "-n", "4", "-d", "0", "-b", "1", "--n-text", "0"]
    model = str(official_gguf("llama", unpacked))
    monkeypatch.setattr("bench.compare.PROBES", {})
    # The checkout itself: a table must show equal tokens, and each engine's own start.
    monkeypatch.setattr(sys, "argv", ["compare.py", "-m", model, "--before", str(ROOT), *short])
    assert main() == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert table[""] == ["edgellm", "edgellm before", "against edgellm before"]
    assert table["greedy tokens"][0] == table["greedy tokens"][1] != "None"
    assert any(name.startswith("cold start") and cells[2].endswith(" x") for name, cells in table.items())


@pytest.fixture(scope="module")
def engine(unpacked: Path) -> Iterator[Engine]:
    made = Engine("edgellm", [sys.executable, str(ROOT / "bench/edgellm_worker.py"), "--kv-type", "f32"])
    made.ask("load", model=str(official_gguf("llama", unpacked)))
    made.ask("open", context=128, threads=1, sequences=2)
    yield made
    made.close()


def test_the_worker_generates_greedily(engine: Engine, expected: Reference) -> None:
    ids = expected.token_ids.tolist()[:16]
    first = engine.ask("generate", ids=ids, n=6, keep=False)
    assert first["seconds"] > 0
    assert first["ids"][0] == int(expected.logits[15].argmax())
    assert engine.ask("generate", ids=ids, n=6, keep=True)["ids"] == first["ids"]


def test_the_worker_scores_a_text(engine: Engine, expected: Reference) -> None:
    ids = expected.token_ids[:16]
    rows = expected.logits[:15].astype(np.float64)
    losses = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(15), ids[1:]]
    answer = engine.ask("perplexity", ids=ids.tolist(), window=16, bos=None)
    assert answer["n_tokens"] == 15
    assert answer["perplexity"] == pytest.approx(float(np.exp(losses.mean())), rel=1e-3)


def test_the_worker_times_prompts_and_several_sequences(engine: Engine, expected: Reference) -> None:
    ids = expected.token_ids.tolist()
    assert engine.ask("prefill", ids=ids[:16])["seconds"] > 0
    assert engine.ask("generate_many", prompts=[ids[:8], ids[8:16]], n=3)["seconds"] > 0
    assert engine.ask("memory")["peak_bytes"] > 1 << 20
    assert engine.ask("info")["engine"] == "edgellm"


def test_a_worker_that_dies_is_named() -> None:
    engine = Engine("peer", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="peer ended with 3 at `info`"):
        engine.ask("info")
    engine.close()
