"""The extension modules' stubs are those that nanobind generates from the modules."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest

from tests.support.paths import ROOT

NANOBIND = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]["test"]


def pinned_nanobind() -> str:
    """The version whose stubgen writes the stubs in the repository."""
    return str(next(line.removeprefix("nanobind==") for line in NANOBIND if line.startswith("nanobind==")))


@pytest.mark.parametrize("name", ["_native", "_native_kernels"])
def test_a_stub_is_up_to_date(name: str) -> None:
    stubgen = pytest.importorskip("nanobind.stubgen", reason="needs nanobind, of the extra `test`")
    found = importlib.metadata.version("nanobind")
    if found != pinned_nanobind():
        pytest.skip(f"the stubs are those of nanobind {pinned_nanobind()}; {found} is installed")
    module = pytest.importorskip(f"edgellm.{name}", reason="needs the built extension module")
    generated = stubgen.StubGen(module)
    generated.put(module)
    stub = ROOT / "edgellm" / f"{name}.pyi"
    assert generated.get() == stub.read_text(encoding="utf-8"), (
        f"{stub.name} is out of date; run: python -m nanobind.stubgen -m edgellm.{name} -o edgellm/{name}.pyi"
    )


@pytest.mark.parametrize("name", ["_native", "_native_kernels"])
def test_a_stub_has_no_holes(name: str) -> None:
    text = (ROOT / "edgellm" / f"{name}.pyi").read_text(encoding="utf-8")
    assert re.findall(r"\bAny\b|\bobject\b|__getattr__|\barg\d*:|-> (?:dict|list|tuple):", text) == []
