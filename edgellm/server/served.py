"""A model from its file to an answer.

Source   a name and a file that may be asked for          (edgellm.server, always there)
  |  options for this source
LoadPlan program, memory, threads: from the file's metadata  (edgellm.engine.planning)
  |
Loading  weights on their way into memory                  (edgellm.engine.loading)
  |
Loaded   a Model and the thread that runs it, with users   (edgellm.server, as long as it is in memory)
  |
Served   a Loaded under the name that one request gave     (edgellm.server, for one request)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.engine.adapters import Choice
from edgellm.engine.model import Model
from edgellm.engine.runner import EngineThread
from edgellm.errors import size_text

# How long a file that appears, or changes, must not have been written to before it is served.
SETTLED_S = 3.0


@dataclass(slots=True, eq=False)
class Loaded:
    """A model in memory; after `keep_s` seconds without a user it is unloaded (infinite: never)."""

    name: str
    model: Model
    runner: EngineThread
    keep_s: float
    on_idle: Callable[[], None]
    n_users: int = 0
    used_at: float = field(default_factory=time.monotonic)

    @property
    def n_bytes(self) -> int:
        """The most that it takes."""
        return sum(self.model.memory.values())

    @property
    def memory_text(self) -> str:
        """The most that it takes, in parts; the cache is that of all answers together."""
        parts = {name: n_bytes for name, n_bytes in self.model.memory.items() if n_bytes}
        listed = ", ".join(f"{name} {size_text(n_bytes)}" for name, n_bytes in parts.items())
        return f"{size_text(self.n_bytes)} ({listed}) with a context of {self.model.n_ctx}"

    @property
    def left_s(self) -> float:
        """Seconds until it is unloaded if nobody uses it from now on."""
        if self.n_users:
            return self.keep_s
        return max(0.0, self.used_at + self.keep_s - time.monotonic())

    def acquire(self) -> None:
        """One user more."""
        self.n_users += 1

    def release(self) -> None:
        """One user less."""
        self.n_users -= 1
        self.used_at = time.monotonic()
        if self.n_users == 0:
            self.on_idle()


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A loaded model under the name that a request gave: its own, or that of one of its adapters.

    lora: what answers use of the adapters unless the request says otherwise; None: as they were loaded.
    """

    name: str
    loaded: Loaded
    lora: Choice | None = None

    @property
    def model(self) -> Model:
        return self.loaded.model

    @property
    def runner(self) -> EngineThread:
        return self.loaded.runner

    def acquire(self) -> None:
        """One user more."""
        self.loaded.acquire()

    def release(self) -> None:
        """One user less."""
        self.loaded.release()


@dataclass(slots=True, eq=False)
class Source:
    """A model that may be asked for: its name in the API and its file."""

    name: str
    path: Path
    created: int
    loaded: Loaded | None = None
    loading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    n_waiting: int = 0
    n_ctx: int | None = None  # asked for by requests, beyond what it would be loaded with
    changed: bool = False  # unloaded because its file has changed, and not loaded since

    @property
    def idle(self) -> bool:
        """True if it is in memory and nobody would miss it."""
        return self.loaded is not None and self.loaded.n_users == 0 and self.n_waiting == 0

    @property
    def settled(self) -> bool:
        """True if the file has not been written to for a while: whoever writes it may be done."""
        try:
            return time.time() - self.path.stat().st_mtime > SETTLED_S
        except OSError:
            return True

    @property
    def gone(self) -> bool:
        """True if it is neither in memory nor on the disk any more."""
        return self.state == "unloaded" and self.n_waiting == 0 and not self.path.exists()

    @property
    def state(self) -> str:
        """loaded, loading or unloaded."""
        return "loaded" if self.loaded else "loading" if self.loading else "unloaded"
