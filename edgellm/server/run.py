"""Running the server: sockets, logs, signals."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn

from edgellm.errors import EdgeLLMError, UsageError
from edgellm.server.app import create_app
from edgellm.server.connection import connection_class
from edgellm.server.models import ModelManager
from edgellm.server.settings import ServerSettings

log = logging.getLogger("edgellm.server")

DRAIN_S = 30
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """uvicorn's server; `ready` is set when every model is loaded, or `failure` says why not."""

    def __init__(self, config: uvicorn.Config, models: ModelManager) -> None:
        super().__init__(config)
        self._models = models
        self.ready = threading.Event()
        self.failure: EdgeLLMError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            if not self.should_exit:
                await self._models.wait()
                notify("READY=1")
                log.info("ready: %s", ", ".join(source.name for source in self._models.sources))
        except EdgeLLMError as error:
            self.failure, self.should_exit = error, True
        finally:
            self.ready.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting and let answers end; a second Ctrl+C does not wait for them."""
        notify("STOPPING=1")
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(settings: ServerSettings, models: ModelManager) -> None:
    """Serve until SIGINT or SIGTERM, which lets answers under way come to their end.

    Raises what the first model failed to load with, or UsageError if the address cannot be had.
    """
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    print(f"edgellm: listening on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr)
    server = Server(make_config(settings, models), models)
    server.run([listener])
    if server.failure is not None:
        raise server.failure


def make_config(settings: ServerSettings, models: ModelManager) -> uvicorn.Config:
    """uvicorn's configuration for an application over these models."""
    return uvicorn.Config(
        create_app(settings, models),
        http=connection_class(settings.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.limits.header_bytes,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )


def listen(settings: ServerSettings) -> socket.socket:
    """The listening socket; port 0 takes a free one."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
            "choose another address with --host or --port."
        ) from None
    return listener


def notify(state: str) -> None:
    """Tell systemd, if it is what runs us and wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", state, error.strerror)


def make_key() -> str:
    """An API key that cannot be guessed."""
    return f"edgellm-{secrets.token_urlsafe(24)}"
