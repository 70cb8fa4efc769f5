"""`edgellm rm`: remove a fetched model, from edgellm's store or the Hub's cache and nowhere else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from edgellm.commands.options import Command, Positional
from edgellm.commands.settings import Settings
from edgellm.errors import FileError, size_text
from edgellm.store import hub
from edgellm.store.catalog import find_known, stored_path
from edgellm.store.paths import downloads_folder, hub_cache, models_folder


def run(settings: Settings) -> int:
    """Remove each named model and print the freed bytes."""
    for name in settings["names"]:
        freed = remove(name)
        print(f"removed {name}, {size_text(freed)} are free again", file=sys.stderr)
    return 0


def remove(name: str) -> int:
    """Remove one model; returns the freed bytes. FileError for an unknown name."""
    known = find_known(name)
    if known is not None:
        freed = _remove_folder(stored_path(known).parent)
        for part in downloads_folder().glob(f"{known.file}.*"):
            freed += _remove_file(part)
        if not freed:
            raise FileError(f"{name} is not on disk; `edgellm list` shows what is")
        return freed
    parsed = None if Path(name).exists() else hub.parse_name(name)
    if parsed is not None:
        found = hub.cached(parsed)
        if found is None:
            raise FileError(f"{name} is not on disk; `edgellm list` shows what is")
        return sum(_remove_cached(found.parent / part) for part in hub.parts(found.name))
    path = Path(name).expanduser()
    if path.is_file() and path.resolve().is_relative_to(models_folder().resolve()):
        return _remove_file(path)
    if path.exists():
        raise FileError(
            f"{name} is not in edgellm's store ({models_folder()}); remove it yourself if you mean to"
        )
    raise FileError(f"{name} is not on disk; `edgellm list` shows what is")


def _remove_file(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size


def _remove_folder(folder: Path) -> int:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return size


def _remove_cached(link: Path) -> int:
    """Remove a file of the Hub's cache: the link in a snapshot, and its blob."""
    blob = link.resolve()
    size = blob.stat().st_size
    link.unlink()
    if blob.is_relative_to(hub_cache().resolve()):
        blob.unlink(missing_ok=True)
    return size


COMMAND = Command(
    summary="Remove a fetched model.",
    run=run,
    description="Removes models from edgellm's store or from the Hub's cache, partial downloads included.\n"
    "Other files are never removed.",
    positionals=(Positional("names", "names as `edgellm list` shows them", "+"),),
    examples=(("edgellm rm gemma-3-270m", "frees 253 MB"),),
)
