"""Broken models are used or refused with an error of the package; never a crash, a hang, or another error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_models import fuzz

pytest.importorskip("edgellm._native", reason="needs the built extension module")


@pytest.mark.timeout(600)
def test_mutants_answer_or_are_refused(tmp_path: Path) -> None:
    outcomes, failures = fuzz(tmp_path, first=20260101, count=2000)
    assert not failures, "\n".join(f"seed {seed}: {told}" for seed, told in failures.items())
    assert sum(outcomes.values()) == 2000
    assert outcomes["answered"] > 200
    assert outcomes["refused"] > 1000
