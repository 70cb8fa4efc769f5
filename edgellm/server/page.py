"""The page at `/`: a chat in the browser that uses the OpenAI API of its own server."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from edgellm.server.errors import RequestError

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).with_name("web")
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "chats.js": "text/javascript; charset=utf-8",
    "completion.js": "text/javascript; charset=utf-8",
    "markdown.js": "text/javascript; charset=utf-8",
}
# Nothing but the page's own files runs, is shown or is asked, whatever a model writes.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """A script or a style sheet of the page."""
    if name not in TYPES:
        raise RequestError(404, f"The page has no part {name[:40]!r}.")
    return _file(name)


def _file(name: str) -> Response:
    return Response((FOLDER / name).read_bytes(), media_type=TYPES[name], headers=HEADERS)
