"""Version of the source that a figure was measured with."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import edgellm

_COMMIT_FILE = "commit.txt"


@cache
def build_commit() -> str:
    """Return the source's short commit: of the checkout that this runs from, else of the build, else
    "unknown".

    A "+" marks a checkout with uncommitted changes.
    """
    package = Path(edgellm.__file__).parent
    if (package.parent / ".git").exists():
        described = _git(package.parent, "describe", "--always", "--dirty=+", "--exclude=*")
        if described:
            return described
    installed = package / _COMMIT_FILE
    return installed.read_text(encoding="ascii").strip() if installed.is_file() else "unknown"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
