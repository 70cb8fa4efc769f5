from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from edgellm.benchmark.coldstart import ColdStart
from edgellm.benchmark.report import FORMATS, Row, make_row, render
from edgellm.benchmark.runner import Runner, Trial
from edgellm.benchmark.version import build_commit
from edgellm.device.limits import Limits
from edgellm.engine.load_options import LoadOptions
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]

# Keys of llama-bench's JSON output, in its order, and the keys that edgellm adds.
LLAMA_BENCH = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "cpu_mask",
    "cpu_strict",
    "poll",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "devices",
    "tensor_split",
    "tensor_buft_overrides",
    "use_mmap",
    "embeddings",
    "no_op_offload",
    "no_host",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
]
OWN = [
    "n_params",
    "version",
    "isa",
    "read_gb_s",
    "read_percent",
    "int8_gmac_s",
    "int8_percent",
    "limit_float_gmac_s",
    "prompt_percent",
    "cold_start_s",
    "peak_bytes",
    "temperature_c",
    "clock_mhz",
    "throttled",
    "energy_j_per_token",
    "tokens_hash",
]


@pytest.fixture(scope="module")
def rows(unpacked: Path) -> list[Row]:
    options = LoadOptions(backend="interpreter", context=64, cache_tokens=1024, threads=1)
    trials = [Trial(12, 0), Trial(0, 4)]
    runner = Runner(official_gguf("llama", unpacked), options, trials)
    limits = Limits(threads=1, isa="scalar", read_gb_s=10.0, int8_gmac_s=50.0, float_gmac_s=5.0)
    cold = ColdStart(median_s=0.25, first_s=0.5, peak_bytes=3 << 20)
    try:
        return [make_row(runner, runner.run(trial, 3), limits, cold) for trial in trials]
    finally:
        runner.close()


def test_keys_are_a_superset_of_llama_benchs(rows: list[Row]) -> None:
    assert {*LLAMA_BENCH, *OWN} <= set(rows[0])


def test_rates_follow_from_times(rows: list[Row]) -> None:
    for row, n_tokens in zip(rows, (12, 4), strict=True):
        assert row["samples_ts"] == pytest.approx([n_tokens * 1e9 / ns for ns in row["samples_ns"]], rel=1e-3)
        assert row["min_ts"] <= row["median_ts"] <= row["max_ts"]
        assert row["avg_ts"] == pytest.approx(sum(row["samples_ts"]) / 3)


def test_shares_of_the_limits(rows: list[Row]) -> None:
    prompt, answer = rows
    assert prompt["read_gb_s"] is None
    assert answer["read_percent"] == pytest.approx(answer["read_gb_s"] * 10)
    assert prompt["int8_percent"] == pytest.approx(prompt["int8_gmac_s"] * 2)
    # Attention's multiply-adds take time, too, so a prompt is nearer to its limit than to the peak.
    assert prompt["prompt_percent"] > prompt["int8_percent"]
    assert answer["prompt_percent"] is None


def test_json_forms_carry_the_rows(rows: list[Row]) -> None:
    assert json.loads(render(rows, "json")) == rows
    assert [json.loads(line) for line in render(rows, "jsonl").splitlines()] == rows


def test_csv_has_a_column_for_each_key(rows: list[Row]) -> None:
    read = list(csv.DictReader(io.StringIO(render(rows, "csv"))))
    assert [set(row) for row in read] == [set(row) for row in rows]
    assert json.loads(read[1]["samples_ns"]) == rows[1]["samples_ns"]


def test_markdown_says_the_same(rows: list[Row]) -> None:
    text = render(rows, "md")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "pp12" in table[2]
    assert f"{rows[1]['avg_ts']:.2f}" in table[3]
    for part in (
        "cold start 0.25 s with peak 3.1 MB",
        "limits 10.0 GB/s",
        rows[1]["tokens_hash"],
        build_commit(),
    ):
        assert part in text


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_are_no_error(form: str) -> None:
    assert render([], form) in ("[]\n", "") or form == "md"
