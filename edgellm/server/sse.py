"""Streams that notice a client who has gone or no longer reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgellm.server.settings import Limits

T = TypeVar("T")

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def data_event(value: Any, event: str | None = None) -> bytes:
    """One server-sent event with a JSON value."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {_encode(value)}\n\n".encode()


class ClientGoneError(Exception):
    """The client has disconnected; nobody is left to answer."""


class Stream(Response):
    """Sends chunks as they are made, with a ping where none has come for a while (none if it is empty).

    It ends early when the client disconnects, or is disconnected because it does not read. `on_end` is called
    in any case, even if nothing could be sent.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        limits: Limits,
        *,
        on_end: Callable[[], None],
        media_type: str = "text/event-stream",
        ping: bytes = b": ping\n\n",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._chunks = chunks
        self._limits = limits
        self._ping = ping
        self._on_end = on_end
        self._ended = False
        self._writing = asyncio.Lock()
        self._written_at = 0.0
        self.init_headers({"Content-Type": media_type, "Cache-Control": "no-cache", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = [asyncio.create_task(self._feed(send)), asyncio.create_task(disconnected(receive))]
        if self._ping:
            tasks.append(asyncio.create_task(self._keep_alive(send)))
        try:
            # One wait for the whole stream: one for every token would take more time than all else about it.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._end()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _feed(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await self._write(send, chunk)
        await self._write(send, b"", more=False)
        self._end()  # before a client that has read it all can ask again

    async def _keep_alive(self, send: Send) -> None:
        loop, patience = asyncio.get_running_loop(), self._limits.ping_s
        self._written_at = loop.time()
        while True:
            left = self._written_at + patience - loop.time()
            if left > 0:
                await asyncio.sleep(left)
            elif self._writing.locked():
                await asyncio.sleep(patience)  # the client does not read, and the connection sees to that
            else:
                await self._write(send, self._ping)

    async def _write(self, send: Send, chunk: bytes, *, more: bool = True) -> None:
        async with self._writing:
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
            self._written_at = asyncio.get_running_loop().time()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled if the client goes; raises ClientGoneError then."""
    gone = asyncio.create_task(disconnected(request.receive))
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
