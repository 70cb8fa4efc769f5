"""Backends whose packages are extras: without one, a command that works anywhere installs it."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import pytest

from edgellm.convert.onnx_graph import import_onnx
from edgellm.errors import BackendError


@pytest.mark.parametrize(
    ("backend", "module", "package"),
    [("llama_cpp", "llama_cpp", "llama-cpp-python"), ("onnx", "onnxruntime", "onnxruntime")],
)
def test_a_missing_package_is_named(
    backend: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"edgellm.backends.{backend}", raising=False)
    with pytest.raises(BackendError, match=re.escape(f"{sys.executable} -m pip install {package}`")):
        importlib.import_module(f"edgellm.backends.{backend}")


def test_an_old_onnxruntime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("onnxruntime")
    monkeypatch.setattr(old, "__version__", "1.23.2", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", old)
    monkeypatch.delitem(sys.modules, "edgellm.backends.onnx", raising=False)
    with pytest.raises(BackendError, match=r"1\.24 or newer, found 1\.23\.2"):
        importlib.import_module("edgellm.backends.onnx")


def test_writing_onnx_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match="-m pip install onnx onnxruntime`"):
        import_onnx()
