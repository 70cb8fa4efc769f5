"""Records of benchmarks: one JSON file with all that another machine's figures are compared by."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgellm.benchmark.report import Row
from edgellm.benchmark.watch import Moment
from edgellm.errors import FileError, FormatError

FORM = "edgellm bench record 1"
# A clock this far below the highest one of the same record slowed the benchmark down.
_CLOCK_SHARE = 0.85
_LOAD = 0.5
# Shares of a sustained run that count as its burst and as its end.
_BURST, _END = 0.1, 0.25
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed during a sustained run: seconds since the watch began, and tokens a second."""

    t_s: float
    tok_s: float


@dataclass(slots=True)
class Record:
    """Contents of a record.

    device: as `describe_device` has it. rows: as `bench -o json` has them, with `span_s` (seconds of the
    watch in which the test ran), `tokens_right` and `net_j_per_token` (without the power of the idle
    machine). idle_s: seconds of the watch before the tests. sustained: a test repeated for minutes. problems:
    sentences about what makes the figures worth less.
    """

    device: dict[str, Any]
    model: dict[str, Any]
    load_before: float | None
    power_source: str | None
    idle_s: float
    idle_watts: float | None = None
    rows: list[Row] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    sustained_test: str | None = None
    sustained: list[Pace] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def burst_tok_s(self) -> float | None:
        """Median speed of the first tenth of the sustained run, None without one."""
        paces = [pace.tok_s for pace in self.sustained]
        return statistics.median(paces[: max(3, round(len(paces) * _BURST))]) if paces else None

    @property
    def end_tok_s(self) -> float | None:
        """Median speed of the last quarter of the sustained run, None without one."""
        paces = [pace.tok_s for pace in self.sustained]
        return statistics.median(paces[-max(3, round(len(paces) * _END)) :]) if paces else None


def model_identity(path: Path) -> dict[str, Any]:
    """Name, bytes, and a hash of the first and last MiB of a model's file, by which records of it are
    compared.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read(_HASHED_BYTES))
    return {"file": path.name, "bytes": size, "hash": digest.hexdigest()[:16]}


def complete(record: Record) -> None:
    """Add what follows from the rows and moments: energy without that of the idle machine, and problems."""
    for row in record.rows:
        gross = row["energy_j_per_token"]
        if gross is not None and record.idle_watts is not None:
            row["net_j_per_token"] = gross - record.idle_watts / row["median_ts"]
        else:
            row["net_j_per_token"] = None
    record.problems = [*_wrong_tokens(record.rows), *_slow_machine(record)]


def _wrong_tokens(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['test']}: the tokens are wrong: computed again, they differ; the machine or a kernel is "
        "faulty, and the figures count for nothing"
        for row in rows
        if row["tokens_right"] is False
    ]


def _slow_machine(record: Record) -> list[str]:
    found = []
    throttled = [f"{moment.t_s:.0f} s" for moment in record.moments if moment.throttled]
    if throttled:
        found.append(
            f"the processor throttled (first after {throttled[0]}); cool it better, or compare what it "
            "sustains"
        )
    clocks = [moment.clock_mhz for moment in record.moments if moment.clock_mhz is not None]
    busy = [
        moment.clock_mhz
        for moment in record.moments
        if moment.clock_mhz is not None and moment.t_s > record.idle_s + 1
    ]
    if busy and min(busy) < _CLOCK_SHARE * max(clocks):
        found.append(f"the clock fell from {max(clocks):.0f} to {min(busy):.0f} MHz while the tests ran")
    if record.load_before is not None and record.load_before > _LOAD:
        found.append(
            f"other programs were at work (a load of {record.load_before:.1f} before); measure on an "
            "idle machine"
        )
    return found


def save(record: Record, path: Path) -> None:
    """Write a record; FileError if that is not possible."""
    text = json.dumps({"form": FORM, **asdict(record)}, indent=1, ensure_ascii=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}; give another file to --save") from None


def load(path: Path) -> Record:
    """Read a record; FileError if it is missing, FormatError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(
            f"{path}: there is no such file; `edgellm bench --save {path}` writes a record"
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read as a record: {error}") from None
    if not isinstance(content, dict) or content.pop("form", None) != FORM:
        raise FormatError(f"{path}: is no record of a benchmark, expected one that `bench --save` wrote")
    try:
        content["moments"] = [Moment(**moment) for moment in content["moments"]]
        content["sustained"] = [Pace(**pace) for pace in content["sustained"]]
        record = Record(**content)
        for row in record.rows:
            if not all(isinstance(rate, int | float) and rate > 0 for rate in row["samples_ts"]):
                raise TypeError("samples_ts are not positive numbers")
            for key in ("test", "isa", "n_threads", "tokens_hash", "read_percent", "prompt_percent"):
                row[key]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: the record is damaged ({error}); measure again") from None
    return record
