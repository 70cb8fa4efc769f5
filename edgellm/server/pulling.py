"""Models that clients have fetched and deleted: only on a server whose owner allows it, and from where.

Source: Ollama's API documentation (docs/api.md), `POST /api/pull` and `DELETE /api/delete`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from edgellm.errors import EdgeLLMError, one_line
from edgellm.server.bodies import Body
from edgellm.server.description import NDJSON, answers
from edgellm.server.errors import RequestError
from edgellm.server.models import ModelManager
from edgellm.server.puller import Puller
from edgellm.server.routes import JSONRoute
from edgellm.server.service import ServiceOf
from edgellm.server.sse import Stream

log = logging.getLogger("edgellm.server")

# Time between two lines of a download.
REPORT_S = 0.5

router = APIRouter(prefix="/api", tags=["Ollama"], route_class=JSONRoute)


class PullBody(Body):
    """POST /api/pull, DELETE /api/delete."""

    model: str = ""
    name: str = ""
    stream: bool = True
    insecure: bool = False

    @property
    def wanted(self) -> str:
        """The model's name, without what Ollama adds to one."""
        return (self.model or self.name).removesuffix(":latest")


@router.post("/pull", responses=answers("OllamaStatus", NDJSON, error="OllamaError"))
async def pull(body: PullBody, service: ServiceOf) -> Response:
    """Fetch a model, and serve it from then on."""
    name = body.wanted
    puller = _puller(service.settings.puller, name)
    lines = _lines(puller, service.models, name)
    if not body.stream:
        last = [line async for line in lines][-1]
        return JSONResponse(last, 502 if "error" in last else 200, body.ignored())
    encoded = (json.dumps(line, ensure_ascii=False).encode() + b"\n" async for line in lines)
    limits = service.settings.limits
    media = "application/x-ndjson"
    return Stream(encoded, limits, on_end=lambda: None, media_type=media, ping=b"", headers=body.ignored())


@router.delete("/delete", responses=answers("OllamaStatus", error="OllamaError"))
async def delete(body: PullBody, service: ServiceOf) -> Response:
    """Serve a model no longer, and delete its file."""
    name = body.wanted
    puller = _puller(service.settings.puller, name)
    source = service.models.find(name)
    await service.models.forget(source)
    freed = await asyncio.to_thread(puller.remove, name)
    log.info("deleted %s: %d bytes are free again", one_line(name), freed)
    return JSONResponse({"status": "success"})


def _puller(found: Puller | None, name: str) -> Puller:
    """The way to fetch a model of this name; RequestError 403 if there is none."""
    if found is None:
        raise RequestError(
            403,
            "This server fetches and deletes no models for clients; its owner may allow it: --allow-pull.",
        )
    if not found.allowed(name):
        raise RequestError(
            403, f"This server takes models from {', '.join(found.sources)} only, and not {name[:200]!r}."
        )
    return found


async def _lines(puller: Puller, models: ModelManager, name: str) -> AsyncIterator[dict[str, Any]]:
    """The stages of a download as Ollama names them; the last is success or an error."""
    done: tuple[int, int | None] = (0, None)

    def report(completed: int, total: int | None) -> None:
        nonlocal done
        done = completed, total

    yield {"status": "pulling manifest"}
    async with puller.one_at_a_time:
        log.info("fetching %s", one_line(name))
        work = asyncio.ensure_future(asyncio.to_thread(puller.fetch, name, report))
        work.add_done_callback(partial(_serve, models, name))
        while not work.done():
            await asyncio.wait({work}, timeout=REPORT_S)
            completed, total = done
            sizes = {} if total is None else {"total": total, "completed": completed}
            yield {"status": f"pulling {name}", **sizes}
    error = work.exception()
    if error is None:
        yield {"status": "success"}
    elif isinstance(error, EdgeLLMError):
        yield {"error": str(error)}
    else:
        yield {"error": f"Fetching {name} failed; the server's log says why."}


def _serve(models: ModelManager, name: str, task: asyncio.Future[Path]) -> None:
    """Serve a model that has come, even if the client has gone."""
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        models.take_up(name, task.result())
        log.info("fetched %s", one_line(name))
    else:
        log.error("%s was not fetched: %s", one_line(name), one_line(error))
