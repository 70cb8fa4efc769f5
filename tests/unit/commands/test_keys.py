"""The key that `edgellm serve` makes on a network, and keeps."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from edgellm.commands.keys import kept_key, key_file, make_key
from edgellm.errors import FileError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_CONFIG", str(tmp_path / "new" / "config.toml"))
    return tmp_path / "new"


def test_a_key_can_be_spoken_and_typed() -> None:
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    word = "[bdfgjklmnprstvz][aeiou][bdfgjklmnprstvz][aeiou][bdfgjklmnprstvz]"
    assert all(re.fullmatch(f"{word}-{word}-{word}", key) for key in keys)


def test_a_key_is_kept_between_starts_for_its_owner_alone(config: Path) -> None:
    first = kept_key()
    assert kept_key() == first
    assert key_file() == config / "server-key"
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    key_file().write_text("my own\n")
    assert kept_key() == "my own"


def test_a_folder_that_cannot_be_written_to_keeps_none(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("a file where the folder would be")
    with pytest.raises(FileError, match="cannot be read"):
        kept_key()
    config.unlink()
    config.symlink_to("/proc/self/fdinfo")
    assert kept_key() != kept_key()
    assert "for this start only" in capsys.readouterr().err


def test_an_empty_file_is_no_key(config: Path) -> None:
    config.mkdir()
    key_file().write_text("\n")
    with pytest.raises(FileError, match="holds no key"):
        kept_key()
