"""Backends whose packages are extras: without one, a command that works anywhere installs it."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import NoReturn

import pytest

from edgellm import cli
from edgellm.convert.onnx_graph import import_onnx
from edgellm.convert.sentencepiece import read_sentencepiece
from edgellm.engine.grammar import GrammarCompiler
from edgellm.engine.options import Constraint
from edgellm.errors import BackendError, MissingPackageError
from edgellm.tokenizer import Tokenizer
from tests.support.vocabularies import small_bpe


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


def test_a_grammar_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    compiler = GrammarCompiler(Tokenizer.from_metadata(small_bpe()))  # type: ignore[arg-type]
    with pytest.raises(
        BackendError, match=r"A regex needs the package llguidance.*-m pip install llguidance`"
    ):
        compiler.compile(Constraint("regex", "a+"))


def test_a_sentencepiece_model_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(BackendError, match="-m pip install sentencepiece`"):
        read_sentencepiece(b"", 1, {})


def test_a_command_names_the_package_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> NoReturn:
        raise ModuleNotFoundError("No module named 'fastapi.routing'", name="fastapi.routing")

    monkeypatch.setattr(cli, "load_command", load)
    assert cli.main(["serve"]) == 1
    assert "this needs the package fastapi, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "tools"), [("fastapi", "rust clang"), ("sentencepiece", "clang cmake")])
def test_on_android_the_sentence_says_what_the_compilation_needs(
    package: str, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "compiles" not in str(MissingPackageError("this", package))
    monkeypatch.setattr(sys, "getandroidapilevel", lambda: 24, raising=False)
    assert f"first `pkg install {tools}`" in str(MissingPackageError("this", package))
