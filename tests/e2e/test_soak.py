"""A minute of tests/soak.py: everything ends, answers stay the same, and steps are timed."""

from __future__ import annotations

from pathlib import Path

from tests.soak import soak


def test_a_minute(smollm2: Path) -> None:
    report = soak(smollm2, 60, round_s=60, threads=2, n_busy=1, limit_s=300)
    assert report.errors == []
    assert set(report.ended) == {"requests", "engine", "bench", "chat"}
    assert report.longest_s["step"] > 0
    assert report.longest_s["step of serve"] > 0
    assert report.memory
