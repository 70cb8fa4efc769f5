"""Access: Host, Origin and API key, on loopback and on the network."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from edgellm.errors import UsageError
from edgellm.server.guard import Guard
from edgellm.server.settings import ServerSettings, is_loopback

Ask = Callable[..., int]


def asking(settings: ServerSettings, app: ASGIApp | None = None) -> Ask:
    """A function that sends one request through the guard and returns the status."""
    guard = Guard(app or PlainTextResponse("ok"), settings)

    async def send(path: str, headers: dict[str, str]) -> int:
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            response = await client.get(path, headers=headers)
        assert response.headers["x-request-id"].startswith("req_")
        return response.status_code

    def ask(path: str = "/v1/models", **headers: str) -> int:
        return asyncio.run(send(path, {name.replace("_", "-"): value for name, value in headers.items()}))

    return ask


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:8080", "127.0.0.2", "[::1]:8080", "LocalHost"]
)
def test_on_loopback_only_names_of_this_machine_are_answered(host: str) -> None:
    assert asking(ServerSettings())(host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "192.168.1.5:8080",
        "user@localhost",
        "",
        "[::1",
        "127.0.0.1.evil",
    ],
)
def test_on_loopback_other_names_are_refused(host: str) -> None:
    assert asking(ServerSettings())(host=host) == 403


def test_names_can_be_allowed() -> None:
    assert asking(ServerSettings(allowed_hosts=("Pi.example",)))(host="pi.EXAMPLE:8080") == 200


def test_on_the_network_addresses_are_answered_and_foreign_names_are_not() -> None:
    ask = asking(ServerSettings(host="0.0.0.0", api_keys=("k",)))
    assert ask(host="192.168.1.5:8080", authorization="Bearer k") == 200
    assert ask(host="[fe80::1]:8080", authorization="Bearer k") == 200
    assert ask(host="evil.example", authorization="Bearer k") == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("fridge", 200),
        ("fridge.local:8080", 200),
        ("Fridge.LAN", 200),
        ("fridge.home.arpa.", 200),
        ("fridge.fritz.box", 200),
        ("a.b.internal", 200),
        ("fridge.tail1234.ts.net", 200),
        ("freezer.tail1234.ts.net", 403),  # another machine's name
        ("fridge.example.com", 403),  # anybody can have a domain with this machine's name in it
        ("local.example.com", 403),
        ("fritz.box.example.com", 403),
        ("evil-local", 200),  # no public name is without a dot
        ("evil.box", 403),
        ("evil.arpa", 403),
        ("..local", 403),
        ("ts.net", 403),
    ],
)
def test_names_of_a_household_are_answered_and_those_of_strangers_are_not(
    host: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Fridge")
    ask = asking(ServerSettings(host="0.0.0.0", api_keys=("k",)))
    assert ask(host=host, authorization="Bearer k") == status
    # A server without a key answers this machine's own names alone: any device at home may choose a name.
    assert asking(ServerSettings())(host=host) == 403


def test_pages_of_other_origins_are_refused_unless_allowed() -> None:
    ask = asking(ServerSettings())
    assert ask(host="localhost:8080", origin="http://localhost:8080") == 200
    assert ask(host="localhost:8080", origin="http://evil.example") == 403
    assert ask(host="localhost:8080", origin="http://localhost:9000") == 403
    assert ask(host="localhost:8080", origin="null") == 403
    assert asking(ServerSettings(origins=("http://a.example",)))(origin="http://a.example") == 200
    assert asking(ServerSettings(origins=("*",)))(origin="http://b.example") == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic one"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer one"}, 200),
        ({"authorization": "bearer  two"}, 200),
        ({"x_api_key": "two"}, 200),
        ({"x_api_key": "on\u00e9"}, 401),
    ],
)
def test_keys(headers: dict[str, Any], status: int) -> None:
    ask = asking(ServerSettings(api_keys=("one", "two")))
    encoded = {name: value.encode() if not value.isascii() else value for name, value in headers.items()}
    assert ask(**encoded) == status
    assert ask("/health", **encoded) == 200


def test_keys_cannot_be_found_by_trying() -> None:
    ask = asking(ServerSettings(api_keys=("7391",)))
    found = [ask(authorization=f"Bearer {number}") for number in range(7380, 7392)]
    assert found == [401] * 11 + [200]
    assert [ask() for _ in range(30)] == [401] * 30  # no key is no try
    found = [ask(authorization=f"Bearer {number}") for number in range(7400, 7430)]
    assert found[:9] == [401] * 9
    assert 429 in found


def test_the_network_needs_a_key() -> None:
    for host in ("0.0.0.0", "192.168.1.5", "pi.local", "::"):
        with pytest.raises(UsageError, match="API key"):
            ServerSettings(host=host)
    assert [is_loopback(host) for host in ("localhost", "127.3.2.1", "::1", "10.0.0.1")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("length", ["-1", "x", "99999999999"])
def test_a_length_that_is_not_one_is_refused(length: str) -> None:
    assert asking(ServerSettings())(content_length=length) == 413


def test_a_request_is_logged_with_its_id_and_status(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("edgellm.server")
    with caplog.at_level(logging.INFO, logger=logger.name):
        assert asking(ServerSettings())() == 200
        fields = caplog.records[-1].__dict__["fields"]
        assert fields["status"] == 200
        assert fields["id"].startswith("req_")
        n_lines = len(caplog.records)
        assert asking(ServerSettings())("/page/app.js") == 200
        assert len(caplog.records) == n_lines
