"""The Hub over HTTP: one quick question before a download, and one sentence for each way it can fail.

`huggingface_hub` tries a request six times before it gives up, and raises errors of whichever HTTP library it
uses. A question of our own comes first: it takes one round trip, and its answer says at once whether the
network, the name and the token are right.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from edgellm.errors import DownloadError, harmless
from edgellm.store.http import Client

TIMEOUT_S = 10.0
_LARGEST_ANSWER = 64 << 20
_TOKEN_HELP = "give a token that may read it as HF_TOKEN, or log in with `hf auth login`"
# Words of errors whose class says nothing, as proxies and HTTP libraries write them.
_TLS_WORDS = ("certificate", "ssl", "tls")
_NAME_WORDS = (
    "name or service not known",
    "name resolution",
    "nodename nor servname",
    "getaddrinfo",
    "no address",
)
_PROXY_WORDS = ("proxy", "tunnel")


def endpoint() -> str:
    """Address of the Hub: `$HF_ENDPOINT`, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def token() -> str | None:
    """The user's access token: `$HF_TOKEN`, or what `hf auth login` has stored; None if there is none."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if given := os.environ.get(name, "").strip():
            return given
    home = Path(os.environ.get("HF_HOME") or Path(_cache_home()) / "huggingface").expanduser()
    try:
        stored = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return stored.strip() or None


class FoundRepository(NamedTuple):
    """A repository that a search has found; gated: its terms must be accepted first."""

    repo: str
    downloads: int
    gated: bool


def search(words: str, limit: int = 20) -> list[FoundRepository]:
    """Repositories with GGUF files that match words, the most fetched first; DownloadError if it fails."""
    query = urlencode({"search": words, "filter": "gguf", "sort": "downloads", "limit": limit})
    answer = _asked(f"{endpoint()}/api/models?{query}", "search")
    try:
        return [
            FoundRepository(str(r["id"]), int(r.get("downloads", 0)), bool(r.get("gated"))) for r in answer
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _no_hub("search") from None


def list_files(repo: str, revision: str | None = None) -> list[str]:
    """Names of all files of a repository, in one request; DownloadError if they cannot be had."""
    url = f"{endpoint()}/api/models/{repo}"
    if revision is not None:
        url += f"/revision/{quote(revision, safe='')}"
    answer = _asked(url, repo, revision)
    try:
        files = [sibling["rfilename"] for sibling in answer["siblings"]]
        if not all(isinstance(name, str) for name in files):
            raise TypeError
    except (KeyError, TypeError):
        raise _no_hub(repo) from None
    return files


def read_range(repo: str, file: str, start: int, end: int) -> tuple[bytes, int]:
    """Bytes of a repository's file from `start` up to `end`, and the size of the whole file.

    Raises DownloadError if they cannot be had.
    """
    given = token()
    headers = {"Range": f"bytes={start}-{end - 1}"} | ({"Authorization": f"Bearer {given}"} if given else {})
    url = f"{endpoint()}/{repo}/resolve/main/{quote(file)}"
    try:
        with Client(timeout_s=TIMEOUT_S).open(url, **headers) as response:
            length = response.headers.get("Content-Length", "")
            if response.status == 206:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
            else:
                total = length
                response.read(start)  # a server without ranges sends the file from its start
            if not total.isdigit():
                raise _no_hub(repo)
            return response.read(end - start), int(total)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise explained(error, f"{repo}/{file}") from None


def _asked(url: str, repo: str, revision: str | None = None) -> Any:
    """The JSON of an address of the Hub; DownloadError, about `repo`, if it cannot be had."""
    given = token()
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    try:
        with Client(timeout_s=TIMEOUT_S).open(url, Accept="application/json", **headers) as response:
            body = response.read(_LARGEST_ANSWER)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise explained(error, repo, revision) from None
    try:
        return json.loads(body)
    except ValueError:
        raise _no_hub(repo) from None


def _no_hub(repo: str) -> DownloadError:
    return DownloadError(
        f"{repo}: {endpoint()} does not answer as the Hub does (a login page of this network, or "
        "HF_ENDPOINT is wrong?); open it in a browser"
    )


def explained(error: BaseException, repo: str, revision: str | None = None) -> DownloadError:
    """The error as one sentence: what failed on the way to `repo`, and what to do.

    `error` is urllib's, or any that `huggingface_hub` lets through: its own, those of `requests`, `httpx` and
    `httpx2`, and of the operating system.
    """
    status = _status(error)
    if status is not None:
        return DownloadError(f"{repo}: {_refusal(error, status, repo, revision)}")
    return DownloadError(f"{repo}: {_broken(error)}")


def _refusal(error: BaseException, status: int, repo: str, revision: str | None) -> str:
    code = _header(error, "X-Error-Code")
    if code == "GatedRepo" or type(error).__name__ == "GatedRepoError":
        return (
            f"the model is gated: accept its terms on {endpoint()}/{repo}, then {_TOKEN_HELP}"
            if token() is None or status == 401
            else f"the model is gated and this token's account may not read it: accept its terms on "
            f"{endpoint()}/{repo}"
        )
    if status in (401, 404) and (code == "RepoNotFound" or (status == 401 and not code)):
        hint = "this token may not read it" if token() else f"it is private ({_TOKEN_HELP})"
        return f"the Hub has no such repository, or {hint}; check the name, capital letters too"
    if code == "RevisionNotFound":
        return f"the repository has no revision {revision or 'main'}"
    if code == "EntryNotFound":
        return "the repository has no such file"
    if status == 401:
        return f"the Hub does not accept this token; {_TOKEN_HELP}"
    if status == 403:
        return f"the Hub forbids it ({_said(error) or '403'}); {_TOKEN_HELP}"
    if status == 404:
        return f"{endpoint()} has no such repository; check the name, capital letters too"
    if status == 407:
        return "the proxy wants a password; put it into HTTPS_PROXY (http://user:password@host:port)"
    if status == 429:
        after = _header(error, "Retry-After")
        wait = f"in {after} s" if after.isdigit() else "in some minutes"
        return f"the Hub has had too many requests from this address; try again {wait}, or with a token"
    if status == 416:
        return "what the cache has of the file is longer than the file; delete it there and try again"
    if status >= 500:
        return f"the Hub is out of order ({status}); try again later"
    return f"the Hub answers {status} ({_said(error) or 'without a reason'})"


def _broken(error: BaseException) -> str:
    chain = list(_chain(error))
    names = " ".join(type(e).__name__ for e in chain)
    words = " ".join(str(e) for e in chain).lower()
    host = urlsplit(endpoint()).hostname or endpoint()
    if any(isinstance(e, OSError) and e.errno in (28, 122) for e in chain):
        return "the disk of the Hub's cache is full; free some space, or choose another with HF_HOME"
    if any(isinstance(e, PermissionError) for e in chain):
        return f"the Hub's cache cannot be written ({_first_line(error)}); choose another with HF_HOME"
    if "OfflineModeIsEnabled" in names:
        return "it is not on disk, and HF_HUB_OFFLINE forbids the network"
    if "ProxyError" in names or any(word in words for word in _PROXY_WORDS):
        return f"the proxy gives no connection ({_reason(chain)}); check HTTPS_PROXY"
    if any(isinstance(e, ssl.SSLError) for e in chain) or any(word in words for word in _TLS_WORDS):
        return (
            f"the certificate of {host} is not trusted here ({_reason(chain)}); check this machine's date, "
            "or name your network's certificate authorities in SSL_CERT_FILE"
        )
    if any(isinstance(e, socket.gaierror) for e in chain) or any(word in words for word in _NAME_WORDS):
        return f"no network: the name {host} cannot be looked up; connect, or give a file on disk"
    if "Timeout" in names or "timed out" in words:
        return f"{host} does not answer in time; check the connection, and try again"
    if "IncompleteRead" in names or "ProtocolError" in names or "ChunkedEncoding" in names:
        return "the connection ended early; run the same command again to go on"
    if any(isinstance(e, ConnectionError | http.client.HTTPException) for e in chain) or "Connect" in names:
        return f"no connection to {host} ({_reason(chain)}); check the network, or give a file on disk"
    if "ConsistencyError" in names or "consistency check" in words:
        return "what arrived is not what the Hub announced; run the same command again"
    return f"it cannot be fetched from the Hub ({_reason(chain)})"


def _chain(error: BaseException | object) -> Iterator[BaseException]:
    """The error, and what caused it, urllib's `reason` included."""
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        yield error
        reason = getattr(error, "reason", None)
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    for e in _chain(error):
        if isinstance(e, urllib.error.HTTPError):
            return e.code
        status = getattr(getattr(e, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _header(error: BaseException, name: str) -> str:
    for e in _chain(error):
        headers = e.headers if isinstance(e, urllib.error.HTTPError) else None
        headers = headers or getattr(getattr(e, "response", None), "headers", None)
        if headers is not None:
            return str(headers.get(name) or "")
    return ""


def _said(error: BaseException) -> str:
    return harmless(_header(error, "X-Error-Message"))[:200]


def _reason(chain: list[BaseException]) -> str:
    """The innermost error that says anything: the outer ones repeat it in longer words."""
    for e in reversed(chain):
        if text := (getattr(e, "strerror", None) or _first_line(e)):
            return harmless(str(text))[:200]
    return type(chain[0]).__name__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


def _cache_home() -> str:
    return os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
