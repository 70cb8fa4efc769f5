"""Damaged checkpoints, adapters, split sets and cache pieces: some cases of each fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz_adapters, fuzz_cache, fuzz_checkpoints, fuzz_splits
from tests.support.fuzzing import Target, fuzz

pytest.importorskip("edgellm._native", reason="needs the built extension module")

RUNS = (
    (fuzz_checkpoints.TARGET, 60),
    (fuzz_adapters.TARGET, 60),
    (fuzz_splits.TARGET, 60),
    (fuzz_cache.TARGET, 40),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("target", "count"), RUNS, ids=[target.module for target, _ in RUNS])
def test_damage_is_survived_or_refused(target: Target, count: int, tmp_path: Path) -> None:
    outcomes, failures = fuzz(target, tmp_path, first=20260101, count=count)
    assert not failures, "\n".join(f"seed {seed}: {told}" for seed, told in failures.items())
    assert outcomes.total() == count
    assert len(outcomes) > 1
