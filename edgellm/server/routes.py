"""How requests are read: JSON whatever the content type says, and only text that UTF-8 can carry."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from edgellm.server.errors import RequestError

_LONE = re.compile("[\ud800-\udfff]")


class JSONRoute(APIRoute):
    """A route whose bodies are JSON, so that a plain `curl -d` works."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def as_json(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
            return await handler(_JSONRequest({**request.scope, "headers": headers}, request.receive))

        return as_json


class _JSONRequest(Request):
    async def json(self) -> Any:
        """The body's value; RequestError if it nests too deep to be read."""
        raw = await self.body()
        try:
            value = json.loads(raw)
            # Lone surrogates come as escapes, or as bytes that strict UTF-8 does not allow.
            return _clean(value) if b"\\u" in raw or b"\xed" in raw else value
        except UnicodeDecodeError:
            raise RequestError(400, "The body is not UTF-8.", code="invalid_json") from None
        except RecursionError:
            raise RequestError(400, "The body nests too deep.", code="invalid_json") from None


def _clean(value: Any) -> Any:
    """The value with U+FFFD for every lone surrogate."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
