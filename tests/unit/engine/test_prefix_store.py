"""Pieces of sequences in a folder: whole or absent, within the limit, and private."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm.engine import prefix_store
from edgellm.engine.prefix_store import ROOT, Piece, PrefixStore, chain, make_piece
from edgellm.errors import UsageError

MODEL, OTHER = b"m" * 16, b"o" * 16
TOKENS = array("i", range(100, 140))
PIECES = list(chain(MODEL, TOKENS, 8))
BIG = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(folder: Path) -> Iterator[PrefixStore]:
    opened = PrefixStore(folder, BIG)
    yield opened
    opened.close()


def payload(piece: Piece) -> bytes:
    return piece.tokens.tobytes() * 10


def put_all(folder: Path, pieces: list[Piece] = PIECES, max_bytes: int = BIG) -> None:
    """Write pieces, as a process that then ends."""
    store = PrefixStore(folder, max_bytes)
    for index, piece in enumerate(pieces):
        store.put(piece, payload(piece), pieces[:index])
    store.close()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "prefixes").glob("*.kv"))


def test_pieces_are_named_by_all_that_their_bytes_depend_on() -> None:
    assert [(piece.start, piece.end) for piece in PIECES] == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 40)]
    assert len(list(chain(MODEL, TOKENS[:39], 8))) == 4
    assert next(chain(MODEL, TOKENS[:3], 8), None) is None
    changed = TOKENS[:]
    changed[3] += 1
    others = [*chain(MODEL, changed, 8), *chain(OTHER, TOKENS, 8), *chain(MODEL, TOKENS[8:], 8)]
    assert len({piece.name for piece in [*PIECES, *others]}) == len(PIECES) + len(others)


def test_what_was_put_is_there_after_a_restart(folder: Path) -> None:
    put_all(folder)
    store = PrefixStore(folder, BIG)
    assert all(store.has(piece) for piece in PIECES)
    assert [store.read(piece) for piece in PIECES] == [payload(piece) for piece in PIECES]
    assert store.n_bytes == sum(path.stat().st_size for path in files(folder))
    unknown = make_piece(MODEL, ROOT, 0, TOKENS)
    assert not store.has(unknown)
    assert store.read(unknown) is None
    store.close()


def test_whole_sequences_are_listed_with_their_tokens(folder: Path) -> None:
    whole = [make_piece(MODEL, ROOT, 0, TOKENS[:n]) for n in (9, 20)]
    put_all(folder, [*whole, make_piece(OTHER, ROOT, 0, TOKENS)])
    path = folder / "prefixes" / whole[0].name
    path.write_bytes(path.read_bytes().replace(TOKENS[:9].tobytes(), TOKENS[1:10].tobytes(), 1))
    store = PrefixStore(folder, BIG)
    (found,) = store.sequences(MODEL)
    assert found.tokens == TOKENS[:20]
    assert not path.exists()
    store.close()


def cut(data: bytes) -> bytes:
    return data[:-1]


def flip(place: int) -> Callable[[bytes], bytes]:
    def flipped(data: bytes) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return flipped


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": cut,
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: b"\xa5" * 1000,
    **{f"bit {place}": flip(place) for place in (0, 9, 30, 50, 60, 80, 200, -2)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_removed_and_said_once(
    folder: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    put_all(folder)
    path = folder / "prefixes" / PIECES[1].name
    path.write_bytes(damage(path.read_bytes()))
    store = PrefixStore(folder, BIG)
    assert store.read(PIECES[0]) == payload(PIECES[0])
    assert store.read(PIECES[1]) is None
    assert store.read(PIECES[1]) is None
    assert not path.exists()
    assert not store.has(PIECES[1])
    assert [record.message for record in caplog.records if PIECES[1].name in record.message] == [
        f"{folder / 'prefixes'}: {PIECES[1].name} is damaged; it is removed"
    ]
    store.close()


def test_a_file_under_another_name_is_not_used(folder: Path) -> None:
    put_all(folder)
    first, second = (folder / "prefixes" / piece.name for piece in PIECES[:2])
    second.write_bytes(first.read_bytes())
    store = PrefixStore(folder, BIG)
    assert store.read(PIECES[1]) is None
    store.close()


def test_links_and_other_things_are_not_followed(folder: Path, tmp_path: Path) -> None:
    put_all(folder)
    own, target = folder / "prefixes" / PIECES[0].name, tmp_path / "target"
    target.write_bytes(own.read_bytes())
    own.unlink()
    own.symlink_to(target)
    pipe = folder / "prefixes" / PIECES[1].name
    pipe.unlink()
    os.mkfifo(pipe)
    store = PrefixStore(folder, BIG)
    assert not store.has(PIECES[0])
    assert not store.has(PIECES[1])
    # One that is put in place of a file later is not followed, either.
    third = folder / "prefixes" / PIECES[2].name
    target.write_bytes(third.read_bytes())
    third.unlink()
    third.symlink_to(target)
    assert store.read(PIECES[2]) is None
    assert target.exists()
    store.close()


def test_the_least_recently_used_go_first_and_continuations_before_beginnings(folder: Path) -> None:
    other = list(chain(OTHER, TOKENS, 8))
    put_all(folder)
    size = sum(path.stat().st_size for path in files(folder))
    put_all(folder, other[:2], size)
    store = PrefixStore(folder, size)
    assert [store.has(piece) for piece in PIECES] == [True, True, True, False, False]
    store.touch(PIECES[:3])
    store.close()
    put_all(folder, other[2:3], size)
    store = PrefixStore(folder, size)
    assert [store.has(piece) for piece in PIECES] == [True, True, True, False, False]
    assert [store.has(piece) for piece in other] == [True, False, True, False, False]
    assert store.n_bytes <= size
    store.close()


def test_what_is_larger_than_the_limit_is_not_kept(folder: Path) -> None:
    put_all(folder, PIECES[:1], 100)
    assert files(folder) == []


def test_only_this_user_may_read(folder: Path) -> None:
    put_all(folder)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [*files(folder), folder / "prefixes" / "lock"]}
    assert modes == {0o600}
    assert stat.S_IMODE((folder / "prefixes").stat().st_mode) == 0o700
    (folder / "prefixes").chmod(0o755)
    PrefixStore(folder, BIG).close()
    assert stat.S_IMODE((folder / "prefixes").stat().st_mode) == 0o700


def test_folders_that_cannot_be_used(tmp_path: Path, store: PrefixStore, folder: Path) -> None:
    with pytest.raises(UsageError, match="another edgellm"):
        PrefixStore(folder, BIG)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="--cache-dir"):
        PrefixStore(tmp_path / "file", BIG)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "prefixes").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="--cache-dir"):
        PrefixStore(tmp_path / "linked", BIG)


def test_another_user_s_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="another user"):
        PrefixStore(folder, BIG)


@pytest.mark.parametrize("ending", ["part", "01234567.part"])
def test_what_a_killed_process_left_half_written_goes_and_strangers_stay(folder: Path, ending: str) -> None:
    put_all(folder, PIECES[:1])
    part = folder / "prefixes" / f"{PIECES[1].name}.{ending}"
    part.write_bytes(b"half")
    stranger = folder / "prefixes" / "notes.txt"
    stranger.write_text("mine")
    store = PrefixStore(folder, BIG)
    assert not part.exists()
    assert stranger.exists()
    store.put(PIECES[1], payload(PIECES[1]), PIECES[:1])
    store.close()
    assert len(files(folder)) == 2


def test_a_full_disk_is_said_and_tried_again_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync = os.fsync
    full = True

    def failing(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    monkeypatch.setattr(prefix_store, "PAUSE_S", 1e9)
    store = PrefixStore(folder, BIG)
    for piece in PIECES:
        store.put(piece, payload(piece), [])
    store.close()
    assert list((folder / "prefixes").glob("*.kv*")) == []
    assert [record.message for record in caplog.records] == [
        f"{folder / 'prefixes'}: No space left on device; nothing is kept there for 1000000000 s"
    ]
    full = False
    put_all(folder)
    assert len(files(folder)) == len(PIECES)


def test_pieces_that_cannot_be_removed_or_touched_do_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(folder)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store = PrefixStore(folder, BIG)
    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    store.touch(PIECES)
    store.discard(PIECES[0])
    assert store.read(PIECES[0]) is None
    assert store.read(PIECES[1]) == payload(PIECES[1])
    store.close()
