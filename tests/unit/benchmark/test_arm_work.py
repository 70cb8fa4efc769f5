from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import arm_work

KERNEL = "neon:Q4_0:96"


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counted: float, *options: str) -> int:
    work = arm_work.Work(instructions=counted, read=0.5, written=0.1)
    monkeypatch.setattr(arm_work, "build_plugin", lambda folder, name: folder / f"{name}.so")
    monkeypatch.setattr(arm_work, "count", lambda *arguments: (work, 1000))
    return arm_work.main(["binary", "--only", KERNEL, *options])


@pytest.mark.parametrize(("counted", "code"), [(0.25, 0), (0.257, 0), (0.258, 1)])
def test_three_percent_more_than_on_record_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counted: float, code: int
) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({KERNEL: {"instructions": 0.25}}))
    monkeypatch.setattr(arm_work, "RECORD", record)
    assert run(monkeypatch, tmp_path, counted) == code


def test_a_kernel_that_is_not_on_record_fails_until_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"other": {"instructions": 1.0}}))
    monkeypatch.setattr(arm_work, "RECORD", record)
    assert run(monkeypatch, tmp_path, 0.3) == 1
    assert run(monkeypatch, tmp_path, 0.3, "--write") == 0
    written = json.loads(record.read_text())
    assert written["other"] == {"instructions": 1.0}
    assert written[KERNEL] == {"instructions": 0.3, "read": 0.5, "written": 0.1}
    assert run(monkeypatch, tmp_path, 0.3) == 0


def test_the_record_has_every_kernel() -> None:
    record = json.loads(arm_work.RECORD.read_text())
    assert set(arm_work.all_kernels()) == set(record)
    assert all(0 < work["instructions"] < 1 for work in record.values())
