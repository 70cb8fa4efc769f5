"""A real server on a free port of this machine, for tests of what only a socket shows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from edgellm.engine.load_options import LoadOptions
from edgellm.server.models import ModelManager
from edgellm.server.run import Server, listen, make_config
from edgellm.server.service import Service
from edgellm.server.settings import ServerSettings


@dataclass(frozen=True)
class Running:
    """A server that answers, and its insides."""

    url: str
    port: int
    service: Service

    def client(self, **headers: str) -> httpx.Client:
        """A client of this server that waits long enough for slow engines."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


@contextmanager
def running(
    models: Sequence[tuple[str, Path]],
    options: LoadOptions,
    settings: ServerSettings | None = None,
    manager: ModelManager | None = None,
) -> Iterator[Running]:
    """Start a server, wait until its models are loaded, and stop it at the end."""
    settings = settings or ServerSettings(port=0)
    manager = manager or ModelManager(models, options)
    config = make_config(settings, manager)
    server = Server(config, manager)
    listener = listen(settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        port = listener.getsockname()[1]
        server.ready.wait(60)
        assert server.failure is None
        app = config.app
        yield Running(f"http://127.0.0.1:{port}", port, app.state.service)  # type: ignore[union-attr]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def until_idle(server: Running, seconds: float = 10.0) -> int:
    """Wait for the engine to have nothing to do and no users; how many steps it took meanwhile."""
    loaded = server.service.models.loaded[0]
    n_steps = 0
    backend = loaded.model.backend
    step = backend.step

    def counted(*arrays: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        return step(*arrays)

    backend.step = counted  # type: ignore[method-assign, assignment]
    try:
        deadline = time.monotonic() + seconds
        while loaded.model.scheduler.busy or loaded.n_users:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        backend.step = step  # type: ignore[method-assign]
    return n_steps
