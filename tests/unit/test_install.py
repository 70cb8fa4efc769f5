"""Installation: a machine that cannot compile, and sources without an engine, say so in one sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT, load_script

CARRIERS = {"apt-get": "sudo apt install", "dnf": "sudo dnf install"}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The build backend on a Linux machine whose path is an empty folder."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CMAKE_ARGS", "CMAKE_TOOLCHAIN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return load_script(ROOT / "scripts/build_backend.py")


def program(folder: Path, name: str) -> None:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("manager", CARRIERS)
def test_a_missing_compiler_is_one_sentence_with_the_command(
    backend: ModuleType, tmp_path: Path, manager: str
) -> None:
    program(tmp_path, manager)
    with pytest.raises(SystemExit) as stopped:
        backend.get_requires_for_build_wheel()
    assert "lacks a C++ compiler (g++ or clang++)" in str(stopped.value)
    assert CARRIERS[manager] in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_missing_headers_are_named(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "g++")
    program(tmp_path, "apt-get")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(SystemExit, match=r"lacks Python's headers .*sudo apt install python3-dev$"):
        backend.check()


@pytest.mark.parametrize("variable", ["CXX", "CMAKE_TOOLCHAIN_FILE"])
def test_a_chosen_compiler_is_believed(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/opt/other")
    assert not [part for part in backend.lacking() if "compiler" in part]


@pytest.mark.parametrize(
    "words",
    [("-c", "import edgellm; edgellm.load"), ("-m", "edgellm", "show", "x.gguf"), ("-m", "edgellm", "chat")],
)
def test_sources_without_an_engine_say_what_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    shutil.copytree(ROOT / "edgellm", tmp_path / "edgellm", ignore=shutil.ignore_patterns("_native*.*"))
    # -S: an editable installation would find the engine.
    done = subprocess.run(
        [sys.executable, "-S", *words],
        env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert f"{tmp_path / 'edgellm'} holds no compiled engine: start Python in another folder" in last
