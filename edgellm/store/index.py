"""Package index of pip's configuration, read without pip.

Simple repository API: PEP 503 (HTML) and PEP 691 (JSON); `http(s)://` and `file://` indexes. The
configuration comes from pip's own places: `PIP_*` variables, `PIP_CONFIG_FILE`, and its `pip.conf` files.
"""

from __future__ import annotations

import configparser
import html.parser
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from edgellm.errors import DownloadError
from edgellm.store.http import Client, shown

PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_MAX_PAGE = 32 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on an index: its file name, its URL, and its SHA-256 if the index gives one."""

    filename: str
    url: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """pip's index URLs in order, and a file of certificate authorities."""

    urls: tuple[str, ...]
    certificates: str | None


def read_config() -> IndexConfig:
    """pip's configuration: the environment before files, the nearer file before the farther."""
    values = _config_files()
    for name in ("index-url", "extra-index-url", "no-index", "cert"):
        if setting := os.environ.get("PIP_" + name.upper().replace("-", "_")):
            values[name] = setting
    urls: list[str] = []
    if values.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        urls = [values.get("index-url") or PYPI, *values.get("extra-index-url", "").split()]
    certificates = values.get("cert")
    return IndexConfig(tuple(url.rstrip("/") for url in urls), certificates or None)


def find_wheel(package: str, version: str) -> Wheel:
    """Wheel of `package==version` for any platform; DownloadError if no configured index has it."""
    config = read_config()
    if not config.urls:
        raise DownloadError(
            f"{package} {version} is on the package index, and pip's configuration forbids its use"
        )
    client = Client(config.certificates)
    problems = []
    for index in config.urls:
        try:
            wheels = list(_project(client, index, package))
        except DownloadError as error:
            problems.append(str(error))
            continue
        for wheel in wheels:
            if _matches(wheel.filename, package, version):
                return wheel
        problems.append(f"{shown(index)} has no wheel of {package} {version}")
    raise DownloadError(f"{package} {version} cannot be found: {'; '.join(problems)}")


def client() -> Client:
    """A client for the configured index."""
    return Client(read_config().certificates)


def normalize(name: str) -> str:
    """A project's name in the form of indexes (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _matches(filename: str, package: str, version: str) -> bool:
    parts = filename.removesuffix(".whl").split("-")
    return (
        filename.endswith(".whl")
        and len(parts) in (5, 6)
        and normalize(parts[0]) == normalize(package)
        and parts[1] == version
        and parts[-1] == "any"
    )


def _project(client: Client, index: str, package: str) -> Iterator[Wheel]:
    url = f"{index}/{normalize(package)}/"
    page = url + "index.html" if url.startswith("file:") else url
    response = client.get(page, accept=_ACCEPT, limit=_MAX_PAGE)
    if "json" in response.content_type:
        try:
            files = json.loads(response.body)["files"]
            for file in files:
                found = urljoin(response.url, file["url"])
                yield Wheel(file["filename"], found, file.get("hashes", {}).get("sha256"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DownloadError(f"{shown(index)} gives a malformed answer for {package}: {error}") from None
        return
    parser = _Links()
    parser.feed(response.body.decode("utf-8", "replace"))
    for link in parser.links:
        found, fragment = urldefrag(urljoin(response.url, link))
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        yield Wheel(unquote(urlsplit(found).path.rsplit("/", 1)[-1]), found, sha256)


class _Links(html.parser.HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def _config_files() -> dict[str, str]:
    """The options of pip's files: the machine's, the user's, the environment's, the named one."""
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return {}
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    paths = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), Path("~/.pip/pip.conf").expanduser()]
    if sys.platform == "darwin":
        paths.append(Path("~/Library/Application Support/pip/pip.conf").expanduser())
    paths += [Path(config).expanduser() / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    if named:
        paths.append(Path(named).expanduser())
    values: dict[str, str] = {}
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise DownloadError(f"{path}: not a readable pip configuration: {error}") from None
        for section in ("global", "download"):
            if parser.has_section(section):
                values.update(parser.items(section))
    return values
