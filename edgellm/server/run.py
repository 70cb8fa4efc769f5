"""Running the server: sockets, logs, signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn

import uvicorn

from edgellm.errors import EdgeLLMError, UsageError
from edgellm.server.addresses import link, qr_code, urls
from edgellm.server.app import create_app
from edgellm.server.connection import connection_class
from edgellm.server.errors import stopping_error
from edgellm.server.models import ModelManager
from edgellm.server.scarcity import LoopErrors, import_late_modules, within_descriptors
from edgellm.server.service import Service
from edgellm.server.settings import ServerSettings
from edgellm.server.watchdog import EXIT_STALLED, Watchdog

log = logging.getLogger("edgellm.server")

DRAIN_S = 30.0
# How long requests may take to say that they are cut off.
CUT_OFF_S = 1.0
KEEP_ALIVE_S = 75
EXIT_INTERRUPTED = 130


class Server(uvicorn.Server):
    """uvicorn's server; `ready` is set when every model is loaded, or `failure` says why not."""

    def __init__(self, config: uvicorn.Config, models: ModelManager) -> None:
        super().__init__(config)
        self._models = models
        self._service: Service = config.app.state.service  # type: ignore[union-attr]
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ready = threading.Event()
        self.failure: EdgeLLMError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(LoopErrors())
        await super().startup(sockets)
        try:
            if not self.should_exit:
                await self._models.wait()
                await asyncio.to_thread(import_late_modules)
                notify("READY=1")
                log.info("ready: %s", ", ".join(source.name for source in self._models.sources))
        except EdgeLLMError as error:
            self.failure, self.should_exit = error, True
        finally:
            self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end, and after a while cut them off."""
        ending = asyncio.create_task(self._cut_off_late())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _cut_off_late(self) -> None:
        await asyncio.sleep(DRAIN_S)
        log.warning("requests still under way after %g s are cut off", DRAIN_S)
        await self.cut_off()

    async def cut_off(self) -> None:
        """End every request with status 503, or a stream with its error."""
        self._service.fail_all(stopping_error())
        await asyncio.sleep(CUT_OFF_S)
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.sleep(CUT_OFF_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting and let answers end; a second Ctrl+C ends the process at once."""
        if self.should_exit and sig == signal.SIGINT:
            leave(EXIT_INTERRUPTED)
        notify("STOPPING=1")
        self.should_exit = True

    def stalled(self) -> None:
        """From another thread: end all requests and the process, without the thread of an engine."""
        notify("STOPPING=1")
        if self._loop is not None:
            with contextlib.suppress(RuntimeError, TimeoutError):
                asyncio.run_coroutine_threadsafe(self.cut_off(), self._loop).result(5 * CUT_OFF_S)
        leave(EXIT_STALLED)


def leave(status: int) -> NoReturn:
    """End the process at once: threads that are in the engine would abort an ordinary end."""
    with contextlib.suppress(RuntimeError, OSError):  # interrupted while it wrote
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def serve(settings: ServerSettings, models: ModelManager, *, shows_link: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, which lets answers under way come to their end.

    shows_link: print the page's address with the key, and its QR code on a terminal. Raises what the first
    model failed to load with, or UsageError if the address cannot be had.
    """
    with listen(settings) as listener:
        _announce(settings, listener, shows_link=shows_link)
        server = Server(make_config(settings, models), models)
        with Watchdog(models, settings.step_timeout_s, server.stalled):
            server.run([listener])
    if server.failure is not None:
        raise server.failure


def _announce(settings: ServerSettings, listener: socket.socket, *, shows_link: bool) -> None:
    """Print the addresses, and the way to the page for whoever holds a phone."""
    found = urls(*listener.getsockname()[:2])
    print(f"edgellm: listening on {' and '.join(found)}", file=sys.stderr)
    if not shows_link:
        return
    page = link(found[0], settings.api_keys[0])
    print(f"edgellm: the chat page, with its key: {page}", file=sys.stderr)
    print(f"edgellm: the key alone, for programs: {settings.api_keys[0]}", file=sys.stderr)
    if sys.stderr.isatty() and sys.stderr.encoding.lower().startswith("utf"):
        print(qr_code(page, colours=os.environ.get("TERM") != "dumb"), file=sys.stderr)


def make_config(settings: ServerSettings, models: ModelManager) -> uvicorn.Config:
    """uvicorn's configuration for an application over these models."""
    return uvicorn.Config(
        create_app(settings, models),
        http=connection_class(within_descriptors(settings.limits)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.limits.header_bytes,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(DRAIN_S + 5 * CUT_OFF_S),
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
    if not address or sys.platform != "linux":
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", state, error.strerror)
