"""Entries of a models folder: those that can be served, and a line in the log for each of the others."""

from __future__ import annotations

import functools
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edgellm.engine.describe import describe
from edgellm.errors import EdgeLLMError, one_line

log = logging.getLogger("edgellm.server")


def usable(paths: Iterable[Path]) -> list[Path]:
    """Paths of files that are models; the log names each of the others once."""
    return [path for path in paths if _is_usable(path)]


def _is_usable(path: Path) -> bool:
    try:
        os.fsencode(path).decode()
        status = path.stat()
    except UnicodeDecodeError:
        return _leave_out(path, 0, 0, "its name is not UTF-8")
    except OSError as error:  # dangling, looping
        return _leave_out(path, 0, 0, error.strerror or "it cannot be read")
    if not stat.S_ISREG(status.st_mode):
        return _leave_out(path, 0, 0, "it is no file")
    return _reads(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _leave_out(path: Path, size: int, changed_ns: int, reason: str) -> bool:
    log.warning("%s is left out: %s", one_line(path), one_line(reason)[:300])
    return False


@functools.lru_cache(maxsize=1024)
def _reads(path: Path, size: int, changed_ns: int) -> bool:
    """True for a file whose header describes a model."""
    try:
        describe(path)
    except (EdgeLLMError, OSError) as error:
        return _leave_out(path, size, changed_ns, str(error))
    return True
