"""HTTP with the standard library: small pages whole, large files resumable.

Certificates come from pip's configuration or the system, proxies from the usual environment variables.
`file://` is allowed, for indexes on disk.
"""

from __future__ import annotations

import base64
import http.client
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from edgellm import __version__
from edgellm.errors import DownloadError, FileError, size_text

TIMEOUT_S = 30.0
ATTEMPTS = 5
_CHUNK = 1 << 18

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and, if known, the bytes there will be."""


@dataclass(frozen=True, slots=True)
class Page:
    """A small answer: its final URL, its type, and its bytes."""

    url: str
    content_type: str
    body: bytes


class Client:
    """Opens URLs; `certificates` is a file of certificate authorities, None for the system's.

    `timeout_s`: seconds without a byte before a connection counts as broken.
    """

    def __init__(self, certificates: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        try:
            context = ssl.create_default_context(cafile=certificates)
        except OSError as error:
            raise DownloadError(f"{certificates}: not a file of certificates: {error}") from None
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    def open(self, url: str, **headers: str) -> http.client.HTTPResponse:
        """The response to a GET; OSError or http.client.HTTPException if there is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http", "file"):
            raise DownloadError(f"{shown(url)}: edgellm fetches over https, http and file only")
        if parts.scheme != "file" and parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
            url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        # Credentials are for this server: a redirection to another one does not take them along.
        authorization = headers.pop("Authorization", None)
        request = urllib.request.Request(url, headers={"User-Agent": f"edgellm/{__version__}", **headers})
        if authorization is not None:
            request.add_unredirected_header("Authorization", authorization)
        response: http.client.HTTPResponse = self._opener.open(request, timeout=self._timeout_s)
        return response

    def get(self, url: str, *, accept: str, limit: int) -> Page:
        """A whole page of at most `limit` bytes; DownloadError if it cannot be had."""
        try:
            with self.open(url, Accept=accept) as response:
                body = response.read(limit + 1)
                page = Page(response.url, response.headers.get("Content-Type", ""), body)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"{shown(url)}: {_reason(error)}") from None
        if len(body) > limit:
            raise DownloadError(f"{shown(url)}: the answer has more than {limit} bytes")
        return page

    def download(self, url: str, part: Path, report: Report | None = None, pause_s: float = 1.0) -> None:
        """Fetch `url` into `part`; continue an earlier attempt, and retry an interruption a few times.

        `part` is whole on return, if the server told its length. Raises DownloadError if the file cannot be
        fetched, FileError if it cannot be written.
        """
        for attempt in range(1, ATTEMPTS + 1):
            before = part.stat().st_size if part.exists() else 0
            try:
                self._attempt(url, part, report)
                return
            except urllib.error.HTTPError as error:
                if error.code == 416 and part.exists():
                    # The partial file is longer than the whole, so it belongs to another file.
                    part.unlink()
                elif error.code < 500 and error.code not in (408, 425, 429):
                    raise DownloadError(f"{shown(url)}: {_reason(error)}") from None
                problem = _reason(error)
            except (TimeoutError, ConnectionError, urllib.error.URLError, http.client.HTTPException) as error:
                problem = _reason(error)
            after = part.stat().st_size if part.exists() else 0
            if attempt == ATTEMPTS:
                raise DownloadError(
                    f"{shown(url)}: {problem}; {after} bytes are kept, run the same command again to go on"
                )
            # After progress, retry at once.
            time.sleep(0 if after > before else pause_s * attempt)

    def _attempt(self, url: str, part: Path, report: Report | None) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self.open(url, **headers) as response:
            status = getattr(response, "status", None)
            resumed = have > 0 and status == 206 and _range_start(response) == have
            if not resumed:
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length and length.isdigit() else None
            with open_file(part, "ab" if resumed else "wb") as out:
                done = have
                while chunk := response.read(_CHUNK):
                    write(out, chunk, part)
                    done += len(chunk)
                    if report:
                        report(done, total)
        if total is not None and done < total:
            raise http.client.IncompleteRead(b"", total - done)


def open_file(path: Path, mode: str) -> IO[bytes]:
    """Open a file for writing and create its folder; FileError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written: {error.strerror}; choose another folder with EDGELLM_HOME"
        ) from None


def write(out: IO[bytes], data: bytes, path: Path) -> None:
    """Write to an open file; FileError that states the free space if the disk is full."""
    try:
        out.write(data)
        out.flush()
    except OSError as error:
        free = size_text(shutil.disk_usage(path.parent).free)
        raise FileError(
            f"{path}: cannot be written: {error.strerror} ({free} are free there); free some "
            "space, or choose another folder with EDGELLM_HOME, and run the same command again to go on"
        ) from None


def shown(url: str) -> str:
    """A URL for messages, without user name, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _range_start(response: http.client.HTTPResponse) -> int | None:
    value = response.headers.get("Content-Range", "")
    start = value.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection ({error.reason})"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    return f"the connection failed ({error or type(error).__name__})"
