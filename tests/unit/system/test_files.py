from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.system.files import Folder, PrivateFolder, lock_file, sync_folder

posix_only = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")


@pytest.fixture(params=["own", "windows"])
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[PrivateFolder]:
    """An empty folder, as this system has it and by its path alone, as on Windows."""
    if request.param == "windows":
        monkeypatch.setattr(sys, "platform", "win32")
    made = PrivateFolder(tmp_path / "cache" / "pieces")
    yield made
    made.close()


def write(folder: PrivateFolder, name: str, data: bytes) -> None:
    with folder.create(name) as file:
        file.write(data)


def test_files_of_a_private_folder_are_written_read_renamed_and_removed(folder: PrivateFolder) -> None:
    write(folder, "a.part", b"one")
    folder.rename("a.part", "a")
    folder.set_time("a", 1_000_000_000_000_000_000)
    assert folder.names() == ["a"]
    assert folder.status("a").st_size == 3
    assert folder.status("a").st_mtime == 1_000_000_000
    with folder.open("a") as file:
        assert file.read() == b"one"
    folder.unlink("a")
    assert folder.names() == []


def test_a_new_file_does_not_replace_another(folder: PrivateFolder) -> None:
    write(folder, "a", b"one")
    with pytest.raises(FileExistsError):
        folder.create("a")
    write(folder, "b", b"two")
    folder.rename("b", "a")
    with folder.open("a") as file:
        assert file.read() == b"two"


def test_a_file_is_written_whole_or_not_at_all(
    folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", b"one", b"two")
    with folder.open("a") as file:
        assert file.read() == b"onetwo"
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        folder.write("a", b"three")
    with folder.open("a") as file:
        assert file.read() == b"onetwo"
    assert folder.names() == ["a"]


def fail(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "the disk is full")


def test_a_new_file_is_refused_where_there_is_one_by_then(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        folder.write("a", b"one", new=True)
        with pytest.raises(FileExistsError):
            folder.write("a", b"two", new=True)
        assert (tmp_path / "a").read_bytes() == b"one"
        assert folder.names() == ["a"]
        folder.write("a", b"three")
    assert (tmp_path / "a").read_bytes() == b"three"


@posix_only
def test_a_new_file_needs_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with Folder(tmp_path) as folder:
        folder.write("a", b"one", mode=0o640, new=True)
        with pytest.raises(FileExistsError):
            folder.write("a", b"two", new=True)
        assert folder.names() == ["a"]
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "a").stat().st_mode & 0o700 == 0o600


@posix_only
def test_links_and_devices_are_not_opened(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path / "pieces")
    (tmp_path / "other").write_bytes(b"private")
    (tmp_path / "pieces" / "link").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "pieces" / "pipe")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        folder.open("link")
    with pytest.raises(PermissionError, match="not a regular file"):
        folder.open("pipe")
    folder.close()


@posix_only
def test_a_folder_that_others_may_read_is_closed_to_them_and_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "pieces").mkdir(mode=0o755)
    folder = PrivateFolder(tmp_path / "pieces")
    assert (tmp_path / "pieces").stat().st_mode & 0o777 == 0o700
    (tmp_path / "pieces").rename(tmp_path / "moved")
    write(folder, "a", b"one")
    assert (tmp_path / "moved" / "a").read_bytes() == b"one"
    folder.close()


@posix_only
def test_a_folder_or_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PrivateFolder(tmp_path / "pieces")
    write(folder, "a", b"one")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="another user"):
        folder.open("a")
    with pytest.raises(PermissionError, match="another user"):
        PrivateFolder(tmp_path / "pieces")
    folder.close()


@posix_only
def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "pieces").symlink_to(tmp_path / "other")
    with pytest.raises(NotADirectoryError):
        PrivateFolder(tmp_path / "pieces")


LOCK = """
import sys
from edgellm.system.files import lock_file
with open(sys.argv[1], "ab") as file:
    print(lock_file(file.fileno(), wait=False))
"""


def test_a_lock_keeps_other_processes_out_until_its_file_is_closed(tmp_path: Path) -> None:
    def locks() -> str:
        done = subprocess.run(
            [sys.executable, "-c", LOCK, str(path)], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    path = tmp_path / "lock"
    with path.open("ab") as file:
        assert lock_file(file.fileno(), wait=True)
        assert locks() == "False"
    assert locks() == "True"


def test_a_private_folder_has_one_holder_of_a_lock(tmp_path: Path) -> None:
    folder, other = PrivateFolder(tmp_path), PrivateFolder(tmp_path)
    held = folder.lock("lock")
    assert held is not None
    assert other.lock("lock") is None
    held.close()
    again = other.lock("lock")
    assert again is not None
    again.close()
    folder.close()
    other.close()


def test_a_folder_that_is_missing_cannot_be_synced(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    if os.name == "posix":
        with pytest.raises(FileNotFoundError):
            sync_folder(tmp_path / "missing")
