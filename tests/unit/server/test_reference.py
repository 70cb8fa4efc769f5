"""The page at /docs: every endpoint is on it, and it needs nothing from elsewhere."""

from __future__ import annotations

import re

import httpx

from edgellm.server.settings import ServerSettings
from tests.unit.server.test_guard import asking


def test_every_endpoint_is_listed_with_what_it_takes(client: httpx.Client) -> None:
    response = client.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    listed = set(re.findall(r"<summary><code>([A-Z]+) ([^<]+)</code>", response.text))
    paths = client.get("/openapi.json").json()["paths"]
    assert listed == {(method.upper(), path) for path, operations in paths.items() for method in operations}
    messages = re.search(
        r"POST /v1/chat/completions<.*?<code>messages</code><td><code>([^<]+)</code><td>(\w*)",
        response.text,
        re.S,
    )
    assert messages is not None
    assert messages[2] == "required"
    assert messages[1].startswith("list[")


def test_nothing_comes_from_elsewhere(client: httpx.Client) -> None:
    response = client.get("/docs")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    addresses = re.findall(r'(?:href|src)="([^"]*)"', response.text)
    assert addresses == ["/page/docs.css", "/openapi.json"]
    assert "<script" not in response.text
    assert [client.get(address).status_code for address in addresses] == [200, 200]


def test_no_key_is_needed_to_read_what_there_is() -> None:
    ask = asking(ServerSettings(api_keys=("secret",)))
    assert [ask("/docs"), ask("/openapi.json"), ask("/v1/models")] == [200, 200, 401]
