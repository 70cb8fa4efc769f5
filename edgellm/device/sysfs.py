"""Reads of `/proc` and `/sys`: a missing, unreadable or malformed file reads as None.

root: the folder that holds `proc` and `sys`; tests pass one of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def read_text(path: Path) -> str | None:
    """Return a small file's text without surrounding whitespace, or None."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return the whole number in a small file, or None."""
    text = read_text(path)
    return int(text) if text is not None and text.removeprefix("-").isdigit() else None


def read_fields(path: Path) -> dict[str, str]:
    """Return a file of `name: value` or `name value` lines as a dict; the first of equal names wins."""
    fields: dict[str, str] = {}
    for line in (read_text(path) or "").splitlines():
        separator = ":" if ":" in line else None
        parts = line.split(separator, 1)
        if len(parts) == 2:
            fields.setdefault(parts[0].strip(), parts[1].strip())
    return fields


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups for `controller`, and of their ancestors, versions 1 and 2.

    A container often sees its own cgroup mounted at the top, under a path that only its host has. Missing
    folders are skipped.
    """
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, name = line.split(":", 2)
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder
