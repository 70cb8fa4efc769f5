"""Checkpoints: a folder, or a repository of the Hub whose files for a conversion are fetched."""

from __future__ import annotations

import re
from pathlib import Path

from edgellm.errors import FileError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Files that a conversion reads; nothing else of a repository is fetched.
_PATTERNS = ("*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja")


def checkpoint_folder(source: str) -> tuple[Path, str]:
    """Folder of a checkpoint, fetched if it is one of the Hub, and its revision there (else empty)."""
    if Path(source).is_dir():
        return Path(source), ""
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
