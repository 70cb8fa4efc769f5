"""Some cases of each fuzzer: each is used or refused; never a crash, a hang, or an error that is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import (
    fuzz_adapters,
    fuzz_cache,
    fuzz_chats,
    fuzz_checkpoints,
    fuzz_models,
    fuzz_splits,
    fuzz_templates,
)
from tests.support.fuzzing import Target, fuzz

pytest.importorskip("edgellm._native", reason="needs the built extension module")

RUNS = (
    (fuzz_checkpoints.TARGET, 60),
    (fuzz_adapters.TARGET, 60),
    (fuzz_splits.TARGET, 60),
    (fuzz_cache.TARGET, 40),
    (fuzz_chats.TARGET, 80),
    (fuzz_templates.TARGET, 80),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("target", "count"), RUNS, ids=[target.module for target, _ in RUNS])
def test_damage_is_survived_or_refused(target: Target, count: int, tmp_path: Path) -> None:
    outcomes, failures = fuzz(target, tmp_path, first=20260101, count=count)
    assert not failures, "\n".join(f"seed {seed}: {told}" for seed, told in failures.items())
    assert outcomes.total() == count
    assert len(outcomes) > 1


@pytest.mark.timeout(600)
def test_broken_models_answer_or_are_refused(tmp_path: Path) -> None:
    outcomes, failures = fuzz(fuzz_models.TARGET, tmp_path, first=20260101, count=2000)
    assert not failures, "\n".join(f"seed {seed}: {told}" for seed, told in failures.items())
    assert outcomes.total() == 2000
    assert outcomes["answered"] > 200
    assert outcomes["refused"] > 1000
