"""A model behind a server that speaks the OpenAI API: edgellm's own, or any other.

It uses the standard library's HTTP client: one connection for each answer, whose stream is read line by line.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from edgellm.commands.thoughts import Thoughts
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Stats
from edgellm.engine.sampling_params import DEFAULTS
from edgellm.errors import ContextOverflowError, ServerError, UsageError

CONNECT_S = 10.0
# edgellm's server sends a ping every 10 s; others are silent during the prefill of a long prompt.
READ_S = 600.0
MAX_LINE_BYTES = 1 << 20
MAX_BODY_BYTES = 8 << 20

_FIELDS = ("max_tokens", "seed", *DEFAULTS)
_EFFORTS = {"off": "none", "on": "medium"}  # levels that the OpenAI API has another word for
_OVERFLOW = ("context_length_exceeded", "exceed_context_size_error")


class Server:
    """Address of a server and how to ask it; `url` with or without the `/v1` of the OpenAI API."""

    def __init__(self, url: str, key: str | None) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise UsageError(f"--url is {url!r}, expected an address such as http://192.168.1.5:8080")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self.name = f"{parts.scheme}://{parts.netloc}{self._base}"
        self._headers = {"Accept": "application/json, text/event-stream", "User-Agent": "edgellm"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection; ServerError with the reason if that fails."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_S)
        with self.failures():
            connection.connect()
        connection.sock.settimeout(READ_S)
        return connection

    def ask(
        self, connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any] | None = None
    ) -> http.client.HTTPResponse:
        """Response to GET, or to POST with a body; raises the error that the server answers."""
        with self.failures():
            if body is None:
                connection.request("GET", self._base + path, headers=self._headers)
            else:
                headers = {**self._headers, "Content-Type": "application/json"}
                connection.request("POST", self._base + path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                with response:
                    self._refuse(response.status, response.read(MAX_BODY_BYTES))
        return response

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with (
            contextlib.closing(self.connect()) as connection,
            self.ask(connection, path) as response,
            self.failures(),
        ):
            content = response.read(MAX_BODY_BYTES)
        try:
            return json.loads(content)
        except ValueError:
            raise ServerError(f"{self.name}{path} answers with something that is not JSON") from None

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Context in which a failure of the network becomes a ServerError with advice."""
        try:
            yield
        except ConnectionRefusedError:
            raise ServerError(
                f"Nothing answers at {self.name}; start `edgellm serve` there, or give another --url"
            ) from None
        except socket.gaierror:
            raise ServerError(f"{self.name}: there is no machine of this name on the network") from None
        except TimeoutError:
            raise ServerError(f"{self.name} does not answer in time") from None
        except ssl.SSLError as error:
            raise ServerError(f"{self.name}: no secure connection: {error.reason or error}") from None
        except (ConnectionError, http.client.HTTPException):
            raise ServerError(f"{self.name} broke the connection off") from None
        except OSError as error:
            raise ServerError(f"{self.name}: {error.strerror or error}") from None

    def _refuse(self, status: int, body: bytes) -> NoReturn:
        message, code = _reason(body)
        message = message or http.client.responses.get(status, "no reason given")
        if code in _OVERFLOW:
            raise ContextOverflowError(message)
        if status in (401, 403):
            message += " (--api-key gives the key)"
        raise ServerError(f"{self.name} answers {status}: {message}")


class RemoteModel:
    """Model of a server; without a name, the first one that it lists. think: a level of thinking."""

    def __init__(
        self,
        server: Server,
        name: str | None,
        *,
        think: str | None = None,
        thoughts: Thoughts | None = None,
    ) -> None:
        self.server = server
        self._think = think
        self.thoughts = thoughts or Thoughts()
        if name is None:
            listed = server.get("/v1/models")
            models = listed.get("data") if isinstance(listed, dict) else None
            first = models[0] if isinstance(models, list) and models else None
            name = first.get("id") if isinstance(first, dict) else None
            if not isinstance(name, str):
                raise ServerError(f"{server.name} lists no models; -m names one")
        self.name = name
        self._n_ctx: int | None = None
        self._asked = False

    @property
    def n_ctx(self) -> int | None:
        """Context in tokens, if the server tells it."""
        if not self._asked:
            self._asked = True
            with contextlib.suppress(ServerError):
                props = self.server.get(f"/props?model={quote(self.name, safe='')}")
                own = props.get("default_generation_settings") if isinstance(props, dict) else None
                for place in (props, own):
                    if isinstance(place, dict) and isinstance(place.get("n_ctx"), int):
                        self._n_ctx = place["n_ctx"]
        return self._n_ctx

    def chat(
        self, messages: Sequence[Mapping[str, Any]], options: GenerateOptions, *, think: str | None = None
    ) -> RemoteReply:
        """Ask for the answer to a conversation. think: a level of thinking, in place of the model's."""
        body = {"model": self.name, "messages": list(messages), **_fields(options)}
        if level := think or self._think:
            body["reasoning_effort"] = _EFFORTS.get(level, level)
        return RemoteReply(self.server, body, self.thoughts)


class RemoteReply(Iterator[str]):
    """Pieces of an answer's words as they come over the network; `thoughts` gets the others.

    Raises ServerError or ContextOverflowError.
    """

    def __init__(self, server: Server, body: Mapping[str, Any], thoughts: Thoughts) -> None:
        self._server = server
        self._thoughts = thoughts
        thoughts.begin()
        self._body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        self._socket: socket.socket | None = None
        self._pieces = self._read()
        self._n_deltas = 0
        self._counts: dict[str, Any] = {}
        self.text = ""
        self.finish_reason: str | None = None
        self.stats: Stats | None = None

    def __next__(self) -> str:
        return next(self._pieces)

    def cancel(self) -> None:
        """End the answer; safe in a signal handler."""
        self.finish_reason = "cancelled"
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> Iterator[str]:
        begin = time.perf_counter()
        first = 0.0
        try:
            with contextlib.closing(self._server.connect()) as connection:
                self._socket = connection.sock
                with self._server.ask(connection, "/v1/chat/completions", self._body) as response:
                    for piece in self._texts(response):
                        first = first or time.perf_counter() - begin
                        yield piece
        except (ServerError, ContextOverflowError):
            if self.finish_reason != "cancelled":
                raise
        finally:
            self._socket = None
        if self.finish_reason is None:
            raise ServerError(f"{self._server.name} broke the answer off")
        self.stats = self._cost(first, time.perf_counter() - begin)

    def _texts(self, response: http.client.HTTPResponse) -> Iterator[str]:
        try:
            for event in self._events(response):
                self._take(event)
                thought, words = _delta(event)
                self._n_deltas += bool(thought or words)
                if thought:
                    self._thoughts.think(thought)
                if words:
                    self._thoughts.end()
                    self.text += words
                    yield words
        finally:
            self._thoughts.end()

    def _events(self, response: http.client.HTTPResponse) -> Iterator[Mapping[str, Any]]:
        """The JSON of each event until `[DONE]`."""
        while True:
            with self._server.failures():
                line = response.readline(MAX_LINE_BYTES)
            if not line:
                return
            name, _, value = line.strip().partition(b":")
            if name != b"data":
                continue
            if value.strip() == b"[DONE]":
                return
            try:
                event = json.loads(value)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise ServerError(f"{self._server.name} sends something that is not the OpenAI API")
            yield event

    def _take(self, event: Mapping[str, Any]) -> None:
        """Take the fields of an event other than text."""
        if "error" in event:
            raise ServerError(f"{self._server.name}: {_reason(json.dumps(event).encode())[0]}")
        for name in ("timings", "usage"):
            if isinstance(event.get(name), dict):
                self._counts[name] = event[name]
        reason = _choice(event).get("finish_reason")
        if isinstance(reason, str) and self.finish_reason is None:
            self.finish_reason = reason

    def _cost(self, first_s: float, total_s: float) -> Stats:
        """The server's own figures if it sends them, otherwise those measured here."""
        with contextlib.suppress(KeyError, TypeError):
            seen = self._counts["timings"]
            return Stats(
                n_prompt=seen["cache_n"] + seen["prompt_n"],
                n_cached=seen["cache_n"],
                n_generated=seen["predicted_n"],
                queue_s=seen.get("queue_ms", 0.0) / 1e3,
                prompt_s=seen["prompt_ms"] / 1e3,
                generate_s=seen["predicted_ms"] / 1e3,
                n_drafted=seen.get("draft_n", 0),
                n_accepted=seen.get("draft_n_accepted", 0),
            )
        usage = self._counts.get("usage", {})
        n_prompt, n_generated = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return Stats(
            n_prompt=n_prompt if isinstance(n_prompt, int) else 0,
            n_cached=0,
            n_generated=n_generated if isinstance(n_generated, int) else self._n_deltas,
            queue_s=0.0,
            prompt_s=first_s,
            generate_s=total_s - first_s,
        )


def _fields(options: GenerateOptions) -> dict[str, Any]:
    """Options as fields of a request; those not set are the server's choice."""
    fields = {name: value for name in _FIELDS if (value := getattr(options, name)) is not None}
    if options.think_budget is not None:
        fields["thinking_budget_tokens"] = options.think_budget
    if options.stop:
        fields["stop"] = list(options.stop)
    if options.logit_bias:
        # JSON has no infinity; the OpenAI API writes -100 for a forbidden token.
        biases = options.logit_bias.items()
        fields["logit_bias"] = {str(token): max(bias, -100.0) for token, bias in biases}
    return fields


def _choice(event: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = event.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _delta(event: Mapping[str, Any]) -> tuple[str, str]:
    """(thought, words) of an event."""
    delta = _choice(event).get("delta")
    if not isinstance(delta, dict):
        return "", ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    return str(thought), str(delta.get("content") or "")


def _reason(body: bytes) -> tuple[str, str]:
    """(message, code) of an error's body in any of the known shapes."""
    try:
        content = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace").strip(), ""
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return str(error)[:500], ""
    code = error.get("code") if error.get("code") in _OVERFLOW else error.get("type")
    return str(error.get("message") or error.get("detail") or "")[:500], str(code)
