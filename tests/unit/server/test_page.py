"""The page's files: their allowed sources, and no access to other files."""

from __future__ import annotations

import re

import httpx
import pytest

from edgellm.server.page import FOLDER, TYPES
from edgellm.server.settings import ServerSettings
from tests.unit.server.test_guard import asking


def test_the_page_and_its_parts_are_served_with_a_strict_policy(client: httpx.Client) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    parts = re.findall(r'(?:href|src)="(page/[^"]+)"', index.text)
    assert parts
    for path in ("/", *(f"/{part}" for part in parts)):
        response = client.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.head("/").status_code == 200


def test_every_file_is_served_and_nothing_else(client: httpx.Client) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(TYPES)
    for name in ("none.js", "..%2fpage.py", "%2e%2e/page.py", "page.py"):
        assert client.get(f"/page/{name}").status_code == 404


def test_a_key_is_asked_for_what_the_page_asks_but_not_for_the_page() -> None:
    ask = asking(ServerSettings(api_keys=("secret",)))
    assert [ask("/"), *(ask(f"/page/{name}") for name in TYPES)] == [200] * (1 + len(TYPES))
    assert [ask("/v1/models"), ask("/page/other.js")] == [401, 401]


@pytest.mark.parametrize("name", [name for name in TYPES if name.endswith((".js", ".css", ".json"))])
def test_no_file_names_another_place(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:url\(|from |import\(|fetch\(|URL\(|"src": )\s*["']([^"']+)""", text)
    assert all(address.startswith(("./", "v1/", "icon")) for address in addresses)
    assert "innerHTML" not in text
    assert "insertAdjacentHTML" not in text
    assert "document.write" not in text


def test_parts_of_the_page_are_short() -> None:
    long = {path.name: len(path.read_bytes().splitlines()) for path in FOLDER.glob("*.js")}
    assert {name for name, n_lines in long.items() if n_lines > 500} == set()


def test_what_others_have_written_comes_with_its_licence() -> None:
    assert "MIT" in (FOLDER / "katex.LICENSE.txt").read_text(encoding="utf-8")
    assert "Apache License" in (FOLDER / "pdfjs.LICENSE.txt").read_text(encoding="utf-8")
