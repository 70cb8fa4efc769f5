"""Backends whose packages are extras: without one, a sentence says how to install it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edgellm
from edgellm.errors import BackendError
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]


@pytest.mark.parametrize(("backend", "package", "extra"), [("llama_cpp", "llama_cpp", "llama-cpp")])
def test_a_missing_package_is_named_with_its_extra(
    backend: str, package: str, extra: str, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"edgellm.backends.{backend}", raising=False)
    with pytest.raises(BackendError, match=rf"pip install 'edgellm\[{extra}\]'"):
        edgellm.load(official_gguf("llama", unpacked), backend=backend)
