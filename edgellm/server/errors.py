"""Every error in the shape of the API that was called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from edgellm.errors import ContextOverflowError, EdgeLLMError, OverloadedError
from edgellm.server.scarcity import no_memory
from edgellm.server.sse import ClientGoneError

RETRY_AFTER_S = 2
MAX_PROBLEMS = 4
MAX_NAME = 64
MAX_MESSAGE = 2000

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


# Folders before a file's name; what clients sent themselves is not after a separator of words.
_FOLDERS = re.compile(
    r"(?<![\w/.:~-])/(?:[^/\s'\":]+/)+(?=[^/\s'\":]*\.(?:gguf|json|safetensors|onnx|bin|jinja|part)\b)"
)


class RequestError(EdgeLLMError):
    """A request that cannot be served as it is: status, sentence, the field it is about, a code."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def stopping_error() -> RequestError:
    """The error of a request that the end of the server cuts off."""
    return RequestError(503, "The server is stopping; try again.", code="server_stopping")


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return error.http_status if isinstance(error, EdgeLLMError) else 500


def message_of(error: Exception) -> str:
    """The sentence for a client: cut, without folders of this machine, and nothing of unforeseen errors."""
    if not isinstance(error, EdgeLLMError):
        return "The server failed on this request; its log says why."
    text = _FOLDERS.sub("", str(error))
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def openai_error(error: Exception) -> dict[str, Any]:
    """An error as the OpenAI API writes it."""
    status = status_of(error)
    kind, code = _TYPES.get(status, "server_error"), getattr(error, "code", None)
    if isinstance(error, ContextOverflowError):
        kind, code = "exceed_context_size_error", "context_length_exceeded"
    elif isinstance(error, OverloadedError):
        code = "queue_full"
    return {
        "error": {
            "message": message_of(error),
            "type": kind,
            "param": getattr(error, "param", None),
            "code": code,
        }
    }


def anthropic_error(error: Exception) -> dict[str, Any]:
    """An error as the Anthropic API writes it."""
    kind, message = _TYPES.get(status_of(error), "api_error"), message_of(error)
    if isinstance(error, ContextOverflowError):
        message = f"prompt is too long: {message}"  # the words that clients look for
    return {"type": "error", "error": {"type": kind, "message": message}}


def ollama_error(error: Exception) -> dict[str, Any]:
    """An error as Ollama writes it."""
    return {"error": message_of(error)}


def shape_for(path: str) -> Any:
    """The function that writes errors of the API that a path belongs to."""
    if path.startswith("/api/"):
        return ollama_error
    if path.removeprefix("/v1").startswith("/messages"):
        return anthropic_error
    return openai_error


def error_response(path: str, error: Exception) -> JSONResponse:
    """The whole response to a request that ended in an error."""
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else None
    return JSONResponse(shape_for(path)(error), status, headers)


def install(app: FastAPI) -> None:
    """Let the app answer all errors in the shape of the API that was called."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return error_response(request.url.path, error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(request.url.path, _from_validation(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, RequestError):  # of reading the body, which FastAPI wraps
            return error_response(request.url.path, error.__cause__)
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"{request.method} {request.url.path}: {message}; see /docs for what there is."
        return error_response(request.url.path, RequestError(error.status_code, message))

    async def scarce(request: Request, error: Exception) -> JSONResponse:
        told = no_memory("This request", error)
        if told is None:
            raise error
        return error_response(request.url.path, told)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the log shows it

    app.add_exception_handler(ClientGoneError, gone)
    app.add_exception_handler(EdgeLLMError, known)
    for kind in (MemoryError, OSError, RuntimeError):
        app.add_exception_handler(kind, scarce)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, known)


def _from_validation(error: RequestValidationError) -> RequestError:
    """The problems at the first place where there are some."""
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return RequestError(400, f"The body is not valid JSON: {reason}.", code="invalid_json")
    place = _place(first, error.body)
    messages = [
        one["msg"].removeprefix("Value error, ") for one in problems if _place(one, error.body) == place
    ]
    message = "; or ".join(dict.fromkeys(messages[:MAX_PROBLEMS]))
    return RequestError(400, f"{place}: {message}." if place else f"{message}.", param=place or None)


def _place(problem: Mapping[str, Any], body: Any) -> str:
    """The field that a problem is about: members of the body, without the names of alternatives tried."""
    parts: list[str] = []
    value = body
    for part in problem["loc"]:
        if part == "body":
            continue
        inside = isinstance(value, dict | list) and (
            part in value if isinstance(value, dict) else isinstance(part, int) and 0 <= part < len(value)
        )
        if not inside and problem["type"] != "missing" and parts:
            break
        parts.append(str(part)[:MAX_NAME])
        value = value[part] if inside else None
    return ".".join(parts)
