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


def data_event(value: Any, event: str | None = None) -> bytes:
    """One server-sent event with a JSON value."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


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
        self.init_headers({"Content-Type": media_type, "Cache-Control": "no-cache", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(disconnected(receive))
        following: asyncio.Task[bytes] | None = None
        patience = self._limits.ping_s if self._ping else None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                following = following or asyncio.create_task(anext(self._chunks, b""))
                done, _ = await asyncio.wait(
                    {following, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if gone in done:
                    return
                chunk = following.result() if following in done else self._ping
                if following in done:
                    following = None
                await send({"type": "http.response.body", "body": chunk, "more_body": bool(chunk)})
                if not chunk:
                    return
        finally:
            self._on_end()
            gone.cancel()
            if following is not None:
                following.cancel()
                await asyncio.wait({following})


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
