"""Comparison of records: speeds with confidence intervals, side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgellm.benchmark.record import Record
from edgellm.benchmark.report import Row

# Student's t for a two-sided confidence of 95 %, by degrees of freedom; the last one for all above.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Interval(NamedTuple):
    """A mean and its confidence interval of 95 %; without an interval (nan) if there is one value alone."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Named:
    """A record and the name that it has in a comparison."""

    name: str
    record: Record


class Line(NamedTuple):
    """One test of one model: the row of each record, None where a record lacks it."""

    model: str
    test: str
    rows: tuple[Row | None, ...]


def t95(degrees: float) -> float:
    """Student's t of 95 % for degrees of freedom of at least one."""
    return _T95[min(max(int(degrees + 1e-9), 1), len(_T95)) - 1]


def interval(values: Sequence[float]) -> Interval:
    """Mean of samples and its confidence interval (Student)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def ratio(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Ratio of two geometric means and its confidence interval (Welch's, of logarithms)."""
    logs, base_logs = ([math.log(value) for value in one] for one in (values, base))
    difference = statistics.fmean(logs) - statistics.fmean(base_logs)
    if len(logs) < 2 or len(base_logs) < 2:
        return Interval(math.exp(difference), math.nan, math.nan)
    a, b = (statistics.variance(one) / len(one) for one in (logs, base_logs))
    if a + b == 0:
        return Interval(*[math.exp(difference)] * 3)
    degrees = (a + b) ** 2 / (a**2 / (len(logs) - 1) + b**2 / (len(base_logs) - 1))
    half = t95(degrees) * math.sqrt(a + b)
    return Interval(*(math.exp(difference + step) for step in (0.0, -half, half)))


def lines(records: Sequence[Named]) -> list[Line]:
    """Tests of all records, in the order in which they occur first; the same model by its hash."""
    keys: dict[tuple[str, str], str] = {}
    for named in records:
        for row in named.record.rows:
            keys.setdefault((named.record.model["hash"], row["test"]), row["model_type"])
    return [
        Line(
            model,
            test,
            tuple(
                next((row for row in named.record.rows if row["test"] == test), None)
                if named.record.model["hash"] == digest
                else None
                for named in records
            ),
        )
        for (digest, test), model in keys.items()
    ]


def share(row: Row) -> float | None:
    """Percent of the machine's limit: of arithmetic for a prompt, of memory for an answer."""
    value: float | None = row["prompt_percent"] or row["read_percent"]
    return value


def joules(row: Row) -> float | None:
    """Joules for a token, without those of the idle machine where they are known."""
    net: float | None = row.get("net_j_per_token")
    gross: float | None = row["energy_j_per_token"]
    return gross if net is None else net


def other_tokens(line: Line) -> bool:
    """True if records with one instruction set have different tokens for a test."""
    hashes: dict[str, set[str]] = {}
    for row in line.rows:
        if row is not None and row["tokens_hash"]:
            hashes.setdefault(row["isa"], set()).add(row["tokens_hash"])
    return any(len(found) > 1 for found in hashes.values())


def problems(records: Sequence[Named]) -> list[str]:
    """Sentences about records that cannot be compared well."""
    found = [f"{named.name}: {problem}" for named in records for problem in named.record.problems]
    found += [
        f"{line.model} {line.test}: records of one instruction set have different tokens; they come from "
        "different versions, or one of them is wrong"
        for line in lines(records)
        if other_tokens(line)
    ]
    return found


def table(records: Sequence[Named]) -> str:
    """A Markdown table: a row for each test and record; ratios are to the first record with that test."""
    titles = ("model", "test", "record", "isa", "threads", "tok/s (95 %)", "ratio", "of limit", "J/token")
    out = [_cells(titles), _cells(["---"] * 4 + ["--:"] * 5)]
    for line in lines(records):
        base: Row | None = None
        for named, row in zip(records, line.rows, strict=True):
            if row is None:
                continue
            rates = row["samples_ts"]
            against = "" if base is None else shown(ratio(rates, base["samples_ts"]), ".2f") + " x"
            base = base or row
            percent, energy = share(row), joules(row)
            out.append(
                _cells(
                    (
                        *(line.model, line.test, named.name, row["isa"], str(row["n_threads"])),
                        shown(interval(rates), ".1f"),
                        against,
                        "" if percent is None else f"{percent:.0f} %",
                        "" if energy is None else f"{energy:.3f}",
                    )
                )
            )
    out.append("")
    for named in records:
        record = named.record
        if record.burst_tok_s is not None and record.end_tok_s is not None:
            minutes = (record.sustained[-1].t_s - record.sustained[0].t_s) / 60
            kept = record.end_tok_s / record.burst_tok_s
            out.append(
                f"{named.name}: {record.sustained_test} for {minutes:.1f} minutes: {record.burst_tok_s:.1f} "
                f"tok/s at first, {record.end_tok_s:.1f} at the end ({kept:.0%})"
            )
    out += problems(records)
    return "\n".join(out).rstrip() + "\n"


def shown(value: Interval, form: str) -> str:
    """An interval as text: `12.3 (11.9 to 12.7)`."""
    if math.isnan(value.low):
        return format(value.mean, form)
    return f"{value.mean:{form}} ({value.low:{form}} to {value.high:{form}})"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
