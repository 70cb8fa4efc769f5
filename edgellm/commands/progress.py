"""Progress on standard error: a bar on a terminal; of bytes also a line at each tenth elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from edgellm.errors import size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class DownloadProgress:
    """Shows bytes done and bytes expected, the arguments of a call. Nothing until the first call.

    in_bytes: False counts work of another kind, by its share, and on a terminal only.
    """

    def __init__(self, label: str, verb: str = "fetching", *, in_bytes: bool = True) -> None:
        self._label = label
        self._verb = verb
        self._in_bytes = in_bytes
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._tenth = -1

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int | None) -> None:
        if not sys.stderr.isatty():
            if not self._in_bytes:
                return
            tenth = 10 * done // total if total else 0
            if tenth > self._tenth:
                self._tenth = tenth
                size = f" of {size_text(total)}" if total else ""
                print(f"{self._verb} {self._label}: {size_text(done)}{size}", file=sys.stderr)
            return
        if self._bar is None:
            self._bar = self._start(total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)

    def _start(self, total: int | None) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amount = (DownloadColumn(), TransferSpeedColumn()) if self._in_bytes else (TaskProgressColumn(),)
        bar = Progress(
            f"{self._verb} [bold]{{task.description}}[/]",
            BarColumn(),
            *amount,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = bar.add_task(self._label, total=total)
        bar.start()
        return bar
