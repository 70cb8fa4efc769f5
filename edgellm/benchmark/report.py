"""Benchmark results as rows, and rows as Markdown, JSON, JSON lines and CSV.

The keys are a superset of llama-bench's, so that readers of its rows can read these.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edgellm import __version__
from edgellm.benchmark.coldstart import ColdStart
from edgellm.benchmark.runner import Result, Runner
from edgellm.benchmark.version import build_commit
from edgellm.device.cores import cpu_name
from edgellm.device.limits import Limits
from edgellm.engine.kv_types import KV_TYPES
from edgellm.errors import size_text
from edgellm.gguf.file_types import file_type_name
from edgellm.gguf.types import GGMLType
from edgellm.program.exported import TYPE_KEY, is_exported

Row = dict[str, Any]
FORMATS = ("md", "json", "jsonl", "csv")

# Keys of llama-bench about graphics processors or switches that edgellm does not have.
_CONSTANTS: Row = {
    "build_number": 0,
    "gpu_info": "",
    "backends": "CPU",
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 0,
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "split_mode": "none",
    "main_gpu": 0,
    "no_kv_offload": False,
    "flash_attn": True,
    "devices": "none",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "use_mmap": True,
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model file: family, mix of formats, size in bytes, number of weights."""

    type: str
    size: int
    n_params: int


def model_facts(runner: Runner) -> ModelFacts:
    """Describe a loaded model from its file."""
    metadata, weights = runner.file.metadata, runner.plan.program.weights
    if is_exported(metadata):
        n_params = sum(map(math.prod, weights.values()))
        return _facts(runner, n_params, f"ONNX {metadata[TYPE_KEY]}", sum(runner.sizes.values()))
    bytes_by_type: dict[GGMLType, int] = defaultdict(int)
    for tensor in runner.file.tensors.values():
        bytes_by_type[tensor.type] += tensor.n_bytes
    n_params = sum(math.prod(tensor.shape) for tensor in runner.file.tensors.values())
    mix = file_type_name(runner.file.metadata.get("general.file_type"))
    if mix is None:
        mix = max(bytes_by_type, key=lambda kind: bytes_by_type[kind]).name
    return _facts(runner, n_params, mix, sum(bytes_by_type.values()))


def _facts(runner: Runner, n_params: int, mix: str, n_bytes: int) -> ModelFacts:
    scale, unit = (1e9, "B") if n_params >= 1e9 else (1e6, "M")
    return ModelFacts(f"{runner.plan.program.family} {n_params / scale:.4g}{unit} {mix}", n_bytes, n_params)


def make_row(runner: Runner, result: Result, limits: Limits | None, cold: ColdStart | None) -> Row:
    """Return all facts about one test as one flat row."""
    test, facts = result.test, model_facts(runner)
    seconds = result.seconds
    rates = [test.n_tokens / s for s in seconds]
    median_s = statistics.median(seconds)
    read_gb_s, gmac_s = _achieved(runner, result, median_s)
    sensors = result.sensors
    row: Row = {
        **_CONSTANTS,
        "build_commit": build_commit(),
        "version": __version__,
        "cpu_info": cpu_name() or "",
        "model_filename": str(runner.file.path),
        "model_type": facts.type,
        "model_size": facts.size,
        "model_n_params": facts.n_params,
        "n_params": facts.n_params,
        "n_batch": runner.backend.batch,
        "n_ubatch": runner.backend.batch,
        "n_threads": runner.plan.threads,
        "n_ctx": runner.plan.n_ctx,
        "type_k": runner.plan.kv_type,
        "type_v": runner.plan.kv_type,
        "isa": getattr(runner.backend, "isa", ""),
        "test": test.name,
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "n_depth": test.n_depth,
        "n_parallel": test.n_parallel,
        "test_time": datetime.fromtimestamp(result.test_time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.fmean(seconds) * 1e9),
        "stddev_ns": round(_stddev(seconds) * 1e9),
        "avg_ts": statistics.fmean(rates),
        "stddev_ts": _stddev(rates),
        "median_ts": statistics.median(rates),
        "min_ts": min(rates),
        "max_ts": max(rates),
        "samples_ns": [round(s * 1e9) for s in seconds],
        "samples_ts": rates,
        "read_gb_s": read_gb_s,
        "limit_read_gb_s": None if limits is None else limits.read_gb_s,
        "read_percent": _percent(read_gb_s, None if limits is None else limits.read_gb_s),
        "int8_gmac_s": gmac_s,
        "limit_int8_gmac_s": None if limits is None else limits.int8_gmac_s,
        "int8_percent": _percent(gmac_s, None if limits is None else limits.int8_gmac_s),
        "limit_float_gmac_s": None if limits is None else limits.float_gmac_s,
        "prompt_percent": _prompt_percent(runner, result, limits, median_s),
        "load_s": runner.load_s,
        "cold_start_s": None if cold is None else cold.median_s,
        "cold_start_first_s": None if cold is None else cold.first_s,
        "cold_start_peak_bytes": None if cold is None else cold.peak_bytes,
        "peak_bytes": runner.peak_bytes(),
        "weights_bytes": runner.memory.get("weights"),
        "temperature_c": sensors.temperature_c if sensors else None,
        "clock_mhz": sensors.clock_mhz if sensors else None,
        "throttled": result.throttled,
        "energy_j_per_token": None if result.energy_j is None else result.energy_j / test.n_tokens,
        "energy_source": result.energy_source,
        "tokens_hash": result.tokens_hash,
        "draft_model": "" if runner.plan.draft is None else str(runner.plan.draft.file.path),
        "n_drafted": result.n_drafted,
        "n_accepted": result.n_accepted,
    }
    return row


def _achieved(runner: Runner, result: Result, median_s: float) -> tuple[float | None, float | None]:
    """GB/s read in decoding (None if prompts are read, too), and GMAC/s with weights.

    Both are None with speculative decoding, because its steps are not counted.
    """
    test, work = result.test, runner.work
    if result.n_drafted:
        return None, None
    macs = work.prompt_macs(test.n_prompt) if test.n_prompt else 0.0
    macs = (macs + work.token_macs() * test.n_gen) * test.n_parallel
    read = None
    if test.n_gen and not test.n_prompt:
        first = max(test.n_depth, 1)
        n_bytes = sum(work.step_bytes([first + i] * test.n_parallel) for i in range(test.n_gen))
        read = (n_bytes - result.unread_bytes) / median_s / 1e9
    return read, macs / median_s / 1e9


def _prompt_percent(runner: Runner, result: Result, limits: Limits | None, median_s: float) -> float | None:
    """Least possible time of prompts alone, in percent of their measured time.

    It is the time of the multiply-adds with weights at the machine's rate for 8-bit integers, and of those of
    attention at its rate for floats, or at half its rate for 8-bit integers over a cache of integers.
    """
    test, work = result.test, runner.work
    if limits is None or not test.n_prompt or test.n_gen:
        return None
    weights = work.prompt_macs(test.n_prompt) / limits.int8_gmac_s
    rate = limits.int8_gmac_s / 2 if KV_TYPES[runner.plan.kv_type].integers else limits.float_gmac_s
    attention = work.attention_macs(test.n_prompt, test.n_depth) / rate
    return 100 * test.n_parallel * (weights + attention) / 1e9 / median_s


def _percent(value: float | None, limit: float | None) -> float | None:
    return None if value is None or not limit else 100 * value / limit


def _stddev(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def render(rows: Sequence[Row], form: str) -> str:
    """Write rows in one of FORMATS, with a final newline."""
    if form == "json":
        return json.dumps(rows, indent=2) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if form == "csv":
        return _csv(rows)
    return _markdown(rows)


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()})
    return out.getvalue()


def _markdown(rows: Sequence[Row]) -> str:
    """A table of the tests, then a line for each fact that a model and thread count have only once."""
    titles = (
        "model",
        "size",
        "params",
        "threads",
        "isa",
        "test",
        "t/s",
        "GB/s",
        "of limit",
        "GMAC/s",
        "of peak",
    )
    lines = [_cells(titles), _cells(["---"] * 3 + ["--:"] + ["---"] * 2 + ["--:"] * 5)]
    for row in rows:
        lines.append(
            _cells(
                [
                    row["model_type"],
                    f"{row['model_size'] / (1 << 20):.2f} MiB",
                    f"{row['n_params'] / 1e6:.2f} M",
                    str(row["n_threads"]),
                    row["isa"],
                    row["test"],
                    f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
                    _number(row["read_gb_s"], ".1f"),
                    _number(row["prompt_percent"] or row["read_percent"], ".0f", " %"),
                    _number(row["int8_gmac_s"], ".1f"),
                    _number(row["int8_percent"], ".0f", " %"),
                ]
            )
        )
    seen: dict[tuple[str, int], Row] = {}
    for row in rows:
        # The peak is that of the model's last test.
        seen[row["model_filename"], row["n_threads"]] = row
    notes = [_note(row) for row in seen.values()]
    notes += [
        f"{row['test']}: {row['n_accepted']} of {row['n_drafted']} draft tokens were accepted"
        for row in rows
        if row["n_drafted"]
    ]
    hashes = [f"{row['test']}: {row['tokens_hash']}" for row in rows if row["tokens_hash"]]
    if rows:
        notes.append(f"greedy tokens: {', '.join(hashes)}" if hashes else "greedy tokens: none generated")
        notes.append(f"{rows[0]['cpu_info']}; edgellm {rows[0]['version']} ({rows[0]['build_commit']})")
    return "\n".join([*lines, "", *notes]) + "\n"


def _note(row: Mapping[str, Any]) -> str:
    parts = [f"{row['model_type']}, {row['n_threads']} threads: peak {_mib(row['peak_bytes'])}"]
    if row["cold_start_s"] is not None:
        parts.append(f"cold start {row['cold_start_s']:.2f} s with peak {_mib(row['cold_start_peak_bytes'])}")
    if row["limit_read_gb_s"] is not None:
        parts.append(
            f"limits {row['limit_read_gb_s']:.1f} GB/s read, {row['limit_int8_gmac_s']:.1f} GMAC/s int8"
        )
    if row["temperature_c"] is not None:
        parts.append(f"{row['temperature_c']:.0f} °C")
    if row["clock_mhz"] is not None:
        parts.append(f"{row['clock_mhz']:.0f} MHz")
    if row["throttled"] is not None:
        parts.append("throttled" if row["throttled"] else "not throttled")
    if row["energy_j_per_token"] is not None:
        parts.append(f"{row['energy_j_per_token']:.3f} J per token ({row['energy_source']})")
    return ", ".join(parts)


def _mib(size: int | None) -> str:
    return "unknown" if size is None else size_text(size)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
