"""Files that are shortened or overwritten while they are mapped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.gguf.mapping import MappedFile
from edgellm.gguf.reader import GGUFFile
from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model

PAGE = os.sysconf("SC_PAGESIZE")


def mapped(path: Path, *, guarded: bool = True) -> MappedFile:
    with open(path, "rb") as file:
        return MappedFile(file, path, guarded=guarded)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (8 * PAGE))
    return path


def test_pages_that_are_gone_read_as_zeros_and_are_told(path: Path) -> None:
    file = mapped(path)
    assert (file.damaged, file.changed) == (False, False)
    os.truncate(path, 2 * PAGE)
    assert (file.torn, file.damaged) == (False, True)
    assert file[PAGE] == ord("x")
    assert file[5 * PAGE : 5 * PAGE + 3] == b"\0\0\0"
    assert file[8 * PAGE - 1] == 0
    assert (file.torn, file.damaged, file.changed) == (True, True, True)
    os.truncate(path, 8 * PAGE)
    assert file.damaged  # what was read before may have been wrong


def test_other_mappings_do_not_suffer(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"y" * PAGE)
    first, second = mapped(path), mapped(other)
    os.truncate(path, 0)
    assert first[0] == 0
    assert (first.damaged, second.damaged) == (True, False)
    assert second[0] == ord("y")


def test_a_file_that_is_replaced_stays_whole_and_has_changed(path: Path, tmp_path: Path) -> None:
    file = mapped(path)
    new = tmp_path / "new"
    new.write_bytes(b"z" * (8 * PAGE))
    os.replace(new, path)
    assert (file.damaged, file.changed) == (False, True)
    assert file[0] == ord("x")


def test_a_file_that_is_deleted_stays_whole(path: Path) -> None:
    file = mapped(path)
    path.unlink()
    assert (file.damaged, file.changed) == (False, False)


def test_a_file_that_is_overwritten_in_place_is_damaged(path: Path) -> None:
    file = mapped(path)
    with open(path, "r+b") as writer:
        writer.write(b"other")
    os.utime(path, ns=(0, 0))
    assert (file.damaged, file.changed) == (True, True)


def test_a_model_knows_its_files(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    with GGUFFile.open(model, guarded=True) as file:
        assert not file.damaged
        os.truncate(model, PAGE)
        assert file.damaged


@pytest.mark.parametrize("handler", ["", "faulthandler.enable()"])
def test_other_faults_end_the_process_as_before(path: Path, handler: str) -> None:
    script = f"""
import faulthandler, os, sys
from edgellm.gguf.mapping import MappedFile
{handler}
files = [MappedFile(open(sys.argv[1], "rb"), sys.argv[1], guarded=guarded) for guarded in (True, False)]
os.truncate(sys.argv[1], 0)
print(files[0][0], flush=True)
print(files[1][0], flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, path],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.stdout, done.returncode) == ("0\n", -7)
