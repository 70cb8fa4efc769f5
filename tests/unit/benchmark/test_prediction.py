"""Predictions from work and rates, and the rates that are measured and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.benchmark import probe
from edgellm.benchmark.fitting import fit_file, fit_size
from edgellm.benchmark.prediction import answer_seconds, formats_of, predict, prompt_seconds
from edgellm.benchmark.probe import FormatRate, RateBook, Rates
from edgellm.benchmark.work import FormatWork, Work, count_work
from edgellm.device.limits import Limits
from edgellm.engine.load_options import LoadOptions
from edgellm.gguf.reader import GGUFFile
from tests.support.tiny_model import tiny_builder
from tests.unit.program.small import small_program

LIMITS = Limits(threads=1, isa="scalar", read_gb_s=10.0, int8_gmac_s=50.0, float_gmac_s=5.0)
RATES = Rates(
    isa="scalar",
    threads=1,
    kv_type="f16",
    op_s=1e-6,
    logit_s=1e-9,
    value_s=1e-9,
    cache_byte_s=2e-10,
    attention_mac_s=1e-10,
    limits=LIMITS,
    formats={"Q4_K": FormatRate(1e-10, 2e-11), "Q8_0": FormatRate(5e-11, 1e-11)},
)


def _work(head_bytes: float) -> Work:
    return Work(
        body_bytes=1e8,
        body_macs=2e8,
        head_bytes=head_bytes,
        head_macs=head_bytes,
        layers=((1000, 2000, 0), (1000, 2000, 16)),
        body={"Q4_K": FormatWork(1e8, 2e8)},
        head={"Q8_0": FormatWork(head_bytes, head_bytes)},
        n_ops=100,
        n_values=1000,
        n_logits=5000,
    )


def test_an_answer_takes_its_bytes_its_operations_and_its_cache() -> None:
    expected = 1e8 * 1e-10 + 1e7 * 5e-11 + 100 * 1e-6 + 5000 * 1e-9 + (64 + 16) * 1000 * 2e-10
    assert answer_seconds(_work(1e7), RATES, 64) == pytest.approx(expected)


def test_a_large_head_is_read_in_part() -> None:
    saved = answer_seconds(_work(1e8), RATES, 0) - (1e8 * 1e-10 + 1e8 * 5e-11 + 1e-4 + 5e-6)
    assert saved == pytest.approx(-1e8 * 5e-11 * 0.2)


def test_a_prompt_takes_its_multiply_adds() -> None:
    attention = 2000 * sum(range(1, 513)) + 2000 * sum(min(n, 16) for n in range(1, 513))
    expected = 512 * 2e8 * 2e-11 + 1e7 * 1e-11 + attention * 1e-10 + 512 * 1000 * 1e-9 + 2 * 100 * 1e-6
    assert prompt_seconds(_work(1e7), RATES) == pytest.approx(expected)
    late = replace(_work(1e7), late_macs=1.5e8, n_late_layers=1)
    saved = 511 * 0.75 * (2e8 * 2e-11 + 1000 * 1e-9) + 2000 * sum(min(n, 16) for n in range(1, 512)) * 1e-10
    assert prompt_seconds(late, RATES) == pytest.approx(expected - saved)
    prediction = predict(_work(1e7), RATES, generates=False)
    assert prediction.prompt_tok_s == pytest.approx(512 / expected)
    assert prediction.answer_tok_s is None
    assert prediction.span(100.0) == (75.0, 125.0)


def test_work_by_format_adds_up() -> None:
    program = small_program()
    sizes = dict.fromkeys(program.weights, 100)
    formats = {name: "F32" if name == "k" else "Q8_0" for name in program.weights}
    work = count_work(program, sizes, "f16", formats)
    # q and its bias, k, v; embd is the head.
    assert work.body == {"Q8_0": FormatWork(300.0, 8 * 8 + 8 * 4), "F32": FormatWork(100.0, 8 * 4)}
    assert work.head == {"Q8_0": FormatWork(100.0, 5 * 8)}
    assert (work.body_bytes, work.head_bytes) == (400.0, 100.0)
    assert formats_of(work) == ["F32", "Q8_0"]
    assert work.n_ops == len(program.ops)
    assert work.n_values == sum(program.widths.values()) - 5
    assert work.n_logits == 5


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of a moment: the figures mean nothing, the way to them is the same."""
    monkeypatch.setattr(probe, "_SECONDS", 0.0)
    monkeypatch.setattr(probe, "_STREAM_BYTES", 1 << 20)
    monkeypatch.setattr(probe, "_WIDTH", 256)
    monkeypatch.setattr(probe, "_NARROW", 256)
    monkeypatch.setattr(probe, "_VOCABULARY", 1024)
    monkeypatch.setattr(probe, "_DEPTH", 512)
    monkeypatch.setattr(probe, "_LAYERS", 1)
    monkeypatch.setattr(probe, "measure_limits", lambda threads, isa: LIMITS)
    monkeypatch.setattr(probe, "load_average", lambda: 0.0)


def test_rates_are_measured_once_and_kept(tmp_path: Path, quick: None) -> None:
    path, said = tmp_path / "state" / "rates.json", list[str]()
    rates = RateBook(path, said.append).rates(["Q4_K"], threads=1)
    assert rates.formats["Q4_K"].mac_s > 0
    assert rates.attention_mac_s > 0
    assert rates.cache_byte_s > 0
    assert len(said) == 1
    again = RateBook(path, said.append).rates(["Q4_K"], threads=1)
    assert again == rates
    assert len(said) == 1
    more = RateBook(path, said.append).rates(["Q8_0"], threads=1)
    assert more.formats["Q4_K"] == rates.formats["Q4_K"]
    assert more.formats.keys() == {"Q4_K", "Q8_0"}
    assert len(said) == 2


def test_rates_of_a_busy_machine_are_said_to_be_low_and_measured_again(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "load_average", lambda: 3.0)
    path, said = tmp_path / "rates.json", list[str]()
    RateBook(path, said.append).rates(["Q8_0"], threads=1)
    assert "a load of 3.0" in said[1]
    assert "--measure" in said[1]
    RateBook(path, said.append).rates(["Q8_0"], threads=1)
    assert len(said) == 2
    RateBook(path, said.append, anew=True).rates(["Q8_0"], threads=1)
    assert len(said) == 4


def test_rates_of_another_machine_or_a_damaged_file_are_measured_anew(tmp_path: Path, quick: None) -> None:
    path, said = tmp_path / "rates.json", list[str]()
    RateBook(path).rates(["Q8_0"], threads=1)
    content = json.loads(path.read_text())
    content["machine"][1] = "another processor"
    path.write_text(json.dumps(content))
    RateBook(path, said.append).rates(["Q8_0"], threads=1)
    path.write_text("{")
    RateBook(path, said.append).rates(["Q8_0"], threads=1)
    assert len(said) == 2
    (tmp_path / "file").touch()
    kept = RateBook(tmp_path / "file" / "rates.json").rates(["Q8_0"], threads=1)
    assert kept.formats["Q8_0"].mac_s > 0


def test_a_file_is_judged_without_its_weights(tmp_path: Path, quick: None) -> None:
    path = tiny_builder().write(tmp_path / "tiny.gguf")
    book = RateBook(None)
    with GGUFFile.open(path) as file:
        fit = fit_file(file, LoadOptions(threads=1), book)
        small = fit_file(file, LoadOptions(threads=1, context=64), book)
    assert fit.n_ctx == 256
    assert small.memory < fit.memory
    assert fit.fits is True
    assert fit.speed.answer_tok_s is not None
    assert "answers" in fit.sentence()


def test_a_model_larger_than_the_machine_does_not_fit(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.benchmark.fitting.reachable_memory", lambda: 1 << 30)
    monkeypatch.setattr("edgellm.benchmark.fitting.total_memory", lambda: 4 << 30)
    book, options = RateBook(None), LoadOptions(threads=1)
    sizes = [0.2e9, 2e9, 5e9]
    found = [fit_size(round(size), size * 1.6, "Q8_0", options, book) for size in sizes]
    assert [fit.fits for fit in found] == [True, None, False]
    # A token that uses half of the weights takes less time.
    half = fit_size(round(2e9), 3.2e9, "Q8_0", options, book, active=1.6e9)
    assert half.speed.answer_tok_s is not None
    assert found[1].speed.answer_tok_s is not None
    assert half.speed.answer_tok_s >= found[1].speed.answer_tok_s
