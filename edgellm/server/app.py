"""The ASGI application: every API on the models of one manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from edgellm import __version__
from edgellm.server import (
    anthropic,
    chats,
    errors,
    native,
    ollama,
    openai,
    page,
    pulling,
    reference,
    rerank,
    responses,
)
from edgellm.server.bodies import IGNORED_HEADER
from edgellm.server.description import describe
from edgellm.server.guard import Guard
from edgellm.server.models import ModelManager
from edgellm.server.reception import Reception
from edgellm.server.service import RELAXED_HEADER, Service
from edgellm.server.settings import ServerSettings


def create_app(settings: ServerSettings, models: ModelManager) -> FastAPI:
    """The application; it loads the models when it starts and ends them when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models.start()
        yield
        app.state.service.kept.close()
        await models.close()

    app = FastAPI(title="edgellm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = Service(settings, models)
    errors.install(app)
    app.include_router(openai.router, prefix="/v1")
    app.include_router(openai.router, include_in_schema=False)
    app.include_router(rerank.router, prefix="/v1")
    app.include_router(rerank.router, include_in_schema=False)
    app.include_router(ollama.router)
    app.include_router(pulling.router)
    for dialect in (anthropic, responses):
        app.include_router(dialect.router, prefix="/v1")
        app.include_router(dialect.router, include_in_schema=False)
    app.include_router(chats.router, prefix="/v1")
    app.include_router(page.router)
    app.include_router(reference.router)
    app.include_router(native.router)
    app.include_router(native.router, prefix="/v1", include_in_schema=False)
    app.add_middleware(Reception, body_bytes=settings.limits.body_bytes)
    app.add_middleware(Guard, settings=settings)
    if settings.origins:
        # Outermost: a page must be able to read why it was refused.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", IGNORED_HEADER, RELAXED_HEADER],
        )
    app.openapi = cache(partial(describe, app, settings))  # type: ignore[method-assign]
    return app
