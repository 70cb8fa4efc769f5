"""The process that a model was loaded in: a fork of it has the memory, but no thread."""

from __future__ import annotations

import os

from edgellm.errors import BackendError


class OwnProcess:
    """Remembers the process that makes it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        """True in a forked child: locks may be held, and threads waited for, that the child does not have."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises BackendError in a forked child."""
        if self.forked:
            raise BackendError(
                f"The model was loaded by process {self._pid}, of which this process, {os.getpid()}, is a "
                "fork without its threads; load the model after the fork, or start processes with "
                'multiprocessing.get_context("spawn").'
            )
