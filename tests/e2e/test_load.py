"""A short run of bench/load.py: no request is lost, mixed up or kept."""

from __future__ import annotations

from pathlib import Path

from bench.load import HOWS, Load, serving


def test_every_request_ends_properly_and_nothing_is_kept(smollm2: Path) -> None:
    with serving(smollm2) as (url, pid):
        report = Load(url, pid, seed=1).run(seconds=6, n_clients=16)
    assert report.faults() == []
    assert report.ends["stream"] > 0
    assert set(report.ends) <= {*HOWS, "put off", "cancelled too late"}
