"""Paths of files: scripts of the repository, real models, and the larger reference files."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "tests" / "data" / "templates"
SHARED = Path(os.environ.get("EDGELLM_SHARED") or ROOT.parent / "shared")
"""Folder of larger reference files."""


def load_script(path: Path) -> ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def real_model(name: str) -> Path:
    """Return the path of a real model; skips the test if `EDGELLM_TEST_MODELS` does not hold it."""
    folder = os.environ.get("EDGELLM_TEST_MODELS")
    if not folder:
        pytest.skip(f"needs {name}: set EDGELLM_TEST_MODELS to a folder filled by tests/fetch_models.py")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is not there: run python tests/fetch_models.py {folder}")
    return path


def shared(name: str) -> Path:
    """Return a path in the folder of larger reference files; skips the test if it is not there.

    The folder is `EDGELLM_SHARED`, or `shared` beside the repository.
    """
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: set EDGELLM_SHARED to the folder of reference files")
    return path
