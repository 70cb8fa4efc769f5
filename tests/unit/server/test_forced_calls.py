"""Some of `python -m tests.forced_calls`: calls forced through every API, whole and streamed."""

from __future__ import annotations

from tests.forced_calls import run

NAMES = ("id-holds-name", "invoke-parameters", "messages-of-a-turn", "role-tags")


def test_forced_calls_are_valid_and_budgets_end_thoughts() -> None:
    n = 8 * len(NAMES)
    n_valid, n_thoughts, faults = run(NAMES, n, seed=1)
    assert faults == []
    assert n_valid == n
    assert n_thoughts >= 10
