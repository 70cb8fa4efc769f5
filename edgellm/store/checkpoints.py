"""Checkpoints: a folder, or a repository of the Hub whose files for a conversion are fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgellm.errors import DownloadError, FileError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Files that a conversion reads; nothing else of a repository is fetched.
_PATTERNS = ("*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja")


def remote_config(source: str) -> dict[str, Any] | None:
    """config.json of a repository of the Hub whose weights are not on this disk; None for any other source.

    Only that file is fetched. A repository without it is left to the conversion, which says what it is.
    """
    repository, _, revision = source.partition("@")
    if Path(source).is_dir() or not _REPOSITORY.fullmatch(repository):
        return None
    from edgellm.store.hub import cached_folder, download

    folder = cached_folder(repository, revision or None)
    if folder is not None and any(folder.glob("*.safetensors")):
        return None
    try:
        found = json.loads(download(repository, "config.json", revision or None).read_bytes())
    except (DownloadError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def checkpoint_folder(source: str) -> tuple[Path, str]:
    """Folder of a checkpoint, fetched if it is one of the Hub, and its revision there (else empty)."""
    if Path(source).is_dir():
        return Path(source), ""
    if Path(source).is_file():
        raise FileError(
            f"{source}: is a file, expected the folder of a checkpoint; `edgellm quantize` writes a GGUF "
            "file in other formats"
        )
    repository, _, revision = source.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise FileError(
            f"{source}: there is no such folder, expected one with config.json or user/repo[@revision]; "
            "check the path"
        )
    from edgellm.store.hub import download_folder

    folder = download_folder(repository, _PATTERNS, revision or None)
    # The cache names a snapshot's folder by its commit.
    return folder, folder.name
