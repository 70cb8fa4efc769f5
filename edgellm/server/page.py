"""The page at `/`: a chat in the browser that uses the OpenAI API of its own server.

KaTeX (`katex.min.js`, MIT) draws formulas, pdf.js (`pdfjs.*`, Apache 2.0) reads PDF files;
everything else in the folder is written here.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from edgellm.server.errors import RequestError

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).with_name("web")
_NAMES = (
    "answer.css", "answering.js", "app.js", "chats.js", "completion.js", "context.js", "docs.css",
    "dom.js", "files.js", "highlight.js", "icon-192.png", "icon-512.png", "icon.svg", "index.html",
    "inline.js", "katex.LICENSE.txt", "katex.min.js", "manifest.json", "markdown.js", "maths.js",
    "models.js", "page.css", "pdf.js", "pdfjs.LICENSE.txt", "pdfjs.min.mjs", "pdfjs.worker.min.mjs",
    "repetition.js", "settings.js", "sidebar.js", "sync.js", "view.js",
)  # fmt: skip
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
_LARGE = ("katex.min.js", "pdfjs.min.mjs", "pdfjs.worker.min.mjs")
TYPES = {name: _TYPES[Path(name).suffix] for name in _NAMES}
# Nothing but the page's own files runs, is shown or is asked, whatever a model writes.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
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
    headers = HEADERS | {"Cache-Control": "max-age=86400"} if name in _LARGE else HEADERS
    return Response((FOLDER / name).read_bytes(), media_type=TYPES[name], headers=headers)
