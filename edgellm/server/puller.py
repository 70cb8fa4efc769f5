"""Way to fetch and remove models for clients, which the owner of a server may allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

# Called with the bytes that are there, and those of the whole file or None.
Report: TypeAlias = Callable[[int, int | None], None]


@dataclass(slots=True)
class Puller:
    """Fetching and removing of models by name, from the sources that are allowed.

    allowed: True for a name that comes from one of them. fetch: file of a model; DownloadError if that fails.
    remove: bytes that are free again; FileError for a model that is not there.
    """

    sources: tuple[str, ...]
    allowed: Callable[[str], bool]
    fetch: Callable[[str, Report], Path]
    remove: Callable[[str], int]
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
