"""Scarce descriptors and address space: fewer connections, a line a second, a sentence with numbers."""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import time
from dataclasses import replace
from typing import Any

from edgellm.errors import NoMemoryError
from edgellm.server.settings import Limits
from edgellm.system.limits import open_files

log = logging.getLogger("edgellm.server")

# Descriptors besides connections: files, pipes, the event loop, cache pieces.
RESERVED = 64
LINE_S = 1.0
# Modules that the first answer of some kind would import.
_LATE = ("llguidance", "llguidance.gbnf_to_lark", "edgellm.engine.reading", "edgellm.engine.fitting")


def within_descriptors(limits: Limits) -> Limits:
    """The limits with no more connections than this process may have descriptors for.

    The soft limit of descriptors is raised towards the hard one first.
    """
    allowed = open_files(limits.connections + RESERVED)
    if allowed is None or allowed - RESERVED >= limits.connections:
        return limits
    connections = max(4, allowed - RESERVED)
    log.warning("%d descriptors allow %d connections (ulimit -n)", allowed, connections)
    return replace(limits, connections=connections)


class LoopErrors:
    """An event loop's handler of errors: those of scarce resources are a line a second at most."""

    def __init__(self) -> None:
        self._said_at = -LINE_S
        self._n_silent = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if now - self._said_at < LINE_S:
            self._n_silent += 1
            return
        log.warning(
            "no connection can be accepted: %s (%d times more before)", error.strerror, self._n_silent
        )
        self._said_at, self._n_silent = now, 0


def import_late_modules() -> None:
    """Import what answers need, so that none of them needs descriptors or memory for that later."""
    for name in _LATE:
        importlib.import_module(name)


def no_memory(what: str, error: BaseException) -> NoMemoryError | None:
    """The error of what the system gives no memory for, nor threads; None for another error."""
    scarce = isinstance(error, NoMemoryError | MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    scarce = scarce or (isinstance(error, RuntimeError) and str(error) == "can't start new thread")
    return NoMemoryError(what) if scarce else None
