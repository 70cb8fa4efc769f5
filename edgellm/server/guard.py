"""Access: the Host header, the origin of a web page, the API key; and the size of a body.

Plain ASGI, in front of everything else.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgellm.server import page
from edgellm.server.addresses import is_household_name
from edgellm.server.errors import RequestError, error_response, stopping_error
from edgellm.server.logs import FIELDS, LOGGED
from edgellm.server.pacing import WrongKeys
from edgellm.server.settings import Limits, ServerSettings, is_address, is_loopback

log = logging.getLogger("edgellm.server")

MAX_LOGGED = 200
# A name or an address, and a port.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
# Content types that forms of web pages can send without asking first.
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_PAGE_PATHS = frozenset(f"/page/{name}" for name in page.TYPES)
# Paths that say nothing about models or conversations.
OPEN_PATHS = _PAGE_PATHS | {"/health", "/v1/health", "/", "/docs", "/openapi.json", "/favicon.ico"}


class Guard:
    """Refuses requests that the settings do not allow, before any of the body is read.

    The Host check keeps a web page from reaching the server under a name of its own (DNS rebinding); the
    Origin check keeps one from sending requests whose answers it could not read.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._keys = [key.encode() for key in settings.api_keys]
        self._wrong = WrongKeys()
        self._n_held = 0
        names = {"localhost", *settings.allowed_hosts}
        if not settings.loopback:
            names |= {socket.gethostname(), settings.host}
        self._hosts = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        begin, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                if scope["state"].get("close"):
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        body = _Body(receive, self._settings.limits, self._hold)
        try:
            self._check(scope, headers)
            await self._app(scope, body.receive, send_with_id)
        except RequestError as error:
            await error_response(scope["path"], error)(scope, receive, send_with_id)
        except asyncio.CancelledError:  # by the end of the server; a stream that has begun just ends
            if not status:
                await error_response(scope["path"], stopping_error())(scope, receive, send_with_id)
        except HTTPException as error:
            if status:
                raise
            failure = RequestError(error.status_code, str(error.detail))
            await error_response(scope["path"], failure)(scope, receive, send_with_id)
        except Exception as error:
            log.exception("%s %s failed", scope["method"], scope["path"][:MAX_LOGGED])
            if status:
                raise
            await error_response(scope["path"], error)(scope, receive, send_with_id)
        finally:
            self._n_held -= body.size
            fields = {"id": request_id, "status": status, "seconds": round(time.perf_counter() - begin, 3)}
            fields |= scope["state"].get(LOGGED, {})
            # A visit of the page is some twenty files, which would hide what matters.
            level = logging.DEBUG if status == 200 and scope["path"] in _PAGE_PATHS else logging.INFO
            log.log(level, "%s %s", scope["method"], scope["path"][:MAX_LOGGED], extra={FIELDS: fields})

    def _hold(self, n_bytes: int) -> None:
        """Count bytes of bodies that are in memory; HTTPException if they are too many."""
        self._n_held += n_bytes
        if self._n_held > self._settings.limits.bodies_bytes:
            raise HTTPException(503, "Other requests take all memory for bodies; try again.")

    def _check(self, scope: Scope, headers: Headers) -> None:
        self._check_host(headers.get("host", ""))
        if "origin" in headers:
            self._check_origin(headers["origin"], headers.get("host", ""))
        elif headers.get("sec-fetch-site") == "cross-site" and _is_form(headers):
            raise RequestError(
                415, "A form of another site's page sent this; send JSON with Content-Type: application/json."
            )
        if "transfer-encoding" in headers and "content-length" in headers:
            # The next request on this connection could begin anywhere.
            scope["state"]["close"] = True
            raise RequestError(400, "Content-Length and Transfer-Encoding are both given; send one of them.")
        if self._keys and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
            self._check_key(headers, (scope.get("client") or ("",))[0])
        length = headers.get("content-length", "0")
        limit = self._settings.limits.body_bytes
        if not length.isdigit() or int(length) > limit:
            raise RequestError(413, f"The body is {length} bytes long; at most {limit} are accepted.")

    def _check_host(self, value: str) -> None:
        try:
            host = (urlsplit(f"//{value}").hostname or "") if _HOST.fullmatch(value) else ""
        except ValueError:  # no IPv6 address
            host = ""
        if host in self._hosts:
            return
        # A page of another site cannot make the Host header an address: only names can be bound anew.
        if is_address(host) and (not self._settings.loopback or is_loopback(host)):
            return
        if not self._settings.loopback and is_household_name(host):
            return
        raise RequestError(
            403,
            f"The Host header names {value[:100]!r}, to which this server does not answer; start it with "
            f"--allowed-host {host[:100] or 'NAME'} if that name is yours.",
        )

    def _check_origin(self, origin: str, host: str) -> None:
        allowed = self._settings.origins
        if "*" in allowed or origin in allowed or origin.partition("://")[2] == host:
            return
        raise RequestError(
            403, f"Pages of the origin {origin[:100]!r} may not call this server; see --allowed-origin."
        )

    def _check_key(self, headers: Headers, address: str) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = (given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")).encode()
        now = time.monotonic()
        if key and (wait_s := self._wrong.wait_s(address, now)):
            raise RequestError(
                429, f"Too many wrong keys came from your address; try again in {wait_s} seconds."
            )
        # Every key is compared, and each in constant time.
        if sum(hmac.compare_digest(key, known) for known in self._keys) == 0:
            if key:
                self._wrong.count(address, now)
            raise RequestError(
                401,
                "The API key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )


def _is_form(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() in ("", *_FORM_TYPES)


class _Body:
    """Counts the bytes of a body as they come, and the time it takes as a whole."""

    def __init__(self, receive: Receive, limits: Limits, hold: Callable[[int], None]) -> None:
        self._receive = receive
        self._limits = limits
        self._hold = hold
        self._deadline = asyncio.get_running_loop().time() + limits.body_s
        self._complete = False
        self.size = 0

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        limits = self._limits
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"The body did not come within {limits.body_s:g} seconds.") from None
        if message["type"] == "http.request":
            n_bytes = len(message.get("body", b""))
            self.size += n_bytes
            self._complete = not message.get("more_body", False)
            if self.size > limits.body_bytes:
                self.size -= n_bytes
                raise HTTPException(
                    413, f"The body is longer than {limits.body_bytes} bytes; that is the limit."
                )
            self._hold(n_bytes)
        return message
