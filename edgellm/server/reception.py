"""Requests as the routes expect them: paths without a last slash, GET for HEAD, bodies uncompressed.

Plain ASGI, behind the guard.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# zlib's window bits: the format is found by its header.
_ANY_ZLIB = 47
_RAW_DEFLATE = -15
_READ = frozenset({b"content-encoding", b"content-length"})


class _Decoder(Protocol):
    def push(self, data: bytes, room: int) -> bytes: ...

    @property
    def complete(self) -> bool: ...


class Reception:
    """Normalizes requests; `body_bytes` is the limit of a body after decompression, too."""

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self._app = app
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = "/" + scope["path"].strip("/")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "path": path, "raw_path": path.encode(), "method": method}
        encoding = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            decoder = _decoder(encoding)
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in _READ]
            receive = _Decoded(receive, decoder, encoding, self._body_bytes).receive
        await self._app(scope, receive, send)


class _Decoded:
    """A compressed body, decompressed as it comes."""

    def __init__(self, receive: Receive, decoder: _Decoder, encoding: str, limit: int) -> None:
        self._receive = receive
        self._decoder = decoder
        self._encoding = encoding
        self._limit = limit
        self._n_bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        room = self._limit - self._n_bytes + 1
        try:
            data = self._decoder.push(message.get("body", b""), room)
        except (zlib.error, ValueError, EOFError):
            raise HTTPException(400, f"The body is not valid {self._encoding}.") from None
        self._n_bytes += len(data)
        if self._n_bytes > self._limit:
            raise HTTPException(413, f"The body is longer than {self._limit} bytes once it is decompressed.")
        if not message.get("more_body", False) and not self._decoder.complete:
            raise HTTPException(400, f"The body is not complete {self._encoding}.")
        return {**message, "body": data}


def _decoder(encoding: str) -> _Decoder:
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Zlib()
    if encoding == "zstd" and (found := _zstd()) is not None:
        return found
    raise HTTPException(
        415, f"Content-Encoding is {encoding[:40]!r}; send the body uncompressed or as gzip or deflate."
    )


class _Zlib:
    """gzip, zlib, and deflate without a header, as some clients send it."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_ANY_ZLIB)
        self._begun = False

    def push(self, data: bytes, room: int) -> bytes:
        """More of the body: at most `room` bytes."""
        if not data:
            return b""
        try:
            found = self._stream.decompress(data, room)
        except zlib.error:
            if self._begun:
                raise
            self._stream = zlib.decompressobj(_RAW_DEFLATE)
            found = self._stream.decompress(data, room)
        self._begun = True
        if self._stream.unconsumed_tail and len(found) < room:
            found += self._stream.decompress(self._stream.unconsumed_tail, room - len(found))
        return found

    @property
    def complete(self) -> bool:
        """True if the end of the data has been reached."""
        return self._stream.eof


def _zstd() -> _Decoder | None:
    """A decoder of zstd where Python has one (3.14 and later)."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return _Zstd(zstd.ZstdDecompressor())


class _Zstd:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def push(self, data: bytes, room: int) -> bytes:
        """More of the body: at most `room` bytes."""
        if not data:
            return b""
        try:
            found: bytes = self._stream.decompress(data, room)
        except Exception as error:  # its own error has no common base in older releases
            raise ValueError(str(error)) from None
        return found

    @property
    def complete(self) -> bool:
        """True if the end of the data has been reached."""
        return bool(self._stream.eof)
