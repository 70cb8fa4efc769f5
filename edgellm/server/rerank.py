"""Ranking: `/v1/rerank` as Jina, Cohere and llama.cpp have it, TEI's `/rerank`, and vLLM's `/v1/score`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from edgellm.engine.lengths import check_length
from edgellm.engine.ranking import Ranked, best_first, check_ranks, pair_ids, scores
from edgellm.server.bodies import Body, ModelBody
from edgellm.server.description import answers
from edgellm.server.errors import RequestError
from edgellm.server.routes import JSONRoute
from edgellm.server.served import Served
from edgellm.server.service import TOGETHER, Service, ServiceOf
from edgellm.server.sse import unless_gone

router = APIRouter(tags=["Ranking"], route_class=JSONRoute)


class Document(Body):
    """A document with its text under a name."""

    text: str


class RerankBody(ModelBody):
    """POST /v1/rerank; `texts` instead of `documents` is TEI's form, whose answer is a list."""

    query: str
    documents: list[str | Document] | None = None
    texts: list[str] | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    return_text: bool = False

    def given(self) -> list[str]:
        """The texts to rank; RequestError unless they are given in one of the forms."""
        if (self.documents is None) == (self.texts is None):
            raise RequestError(400, "Give the texts to rank as documents.", param="documents")
        listed: Sequence[str | Document] = self.documents if self.documents is not None else self.texts or []
        return [entry if isinstance(entry, str) else entry.text for entry in listed]


class ScoreBody(ModelBody):
    """POST /v1/score: one text with each of several, or texts pair by pair."""

    text_1: str | list[str]
    text_2: str | list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of texts; RequestError for lists of different lengths."""
        first = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        second = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(first) == 1:
            first = first * len(second)
        if len(first) != len(second):
            raise RequestError(
                400,
                f"text_1 has {len(first)} texts and text_2 {len(second)}; expected one, or as many.",
                param="text_1",
            )
        return list(zip(first, second, strict=True))


@router.post("/rerank", responses=answers("Ranking"))
@router.post("/reranking", include_in_schema=False)
async def rerank(body: RerankBody, request: Request, service: ServiceOf) -> Response:
    """Order texts by how well they fit a query."""
    texts = body.given()
    async with service.models.use(body.model) as loaded:
        work = _scores(service, loaded, [(body.query, text) for text in texts])
        found, n_tokens = await unless_gone(request, work)
    ranked = best_first(found, body.top_n)
    if body.texts is not None:
        shown = texts if body.return_text else None
        return JSONResponse([_result(entry, "score", "text", shown) for entry in ranked])
    documents = [{"text": text} for text in texts] if body.return_documents else None
    content = {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "list",
        "model": loaded.name,
        "results": [_result(entry, "relevance_score", "document", documents) for entry in ranked],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return JSONResponse(content, headers=body.ignored())


def _result(entry: Ranked, key: str, name: str, shown: Sequence[Any] | None) -> dict[str, Any]:
    found = {"index": entry.index, key: entry.score}
    return found if shown is None else found | {name: shown[entry.index]}


@router.post("/score", responses=answers("Scores"))
async def score(body: ScoreBody, request: Request, service: ServiceOf) -> Response:
    """Score pairs of texts."""
    pairs = body.pairs()
    async with service.models.use(body.model) as loaded:
        found, n_tokens = await unless_gone(request, _scores(service, loaded, pairs))
    content = {
        "id": f"score-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": loaded.name,
        "data": [{"index": i, "object": "score", "score": value} for i, value in enumerate(found)],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens, "completion_tokens": 0},
    }
    return JSONResponse(content, headers=body.ignored())


async def _scores(
    service: Service, loaded: Served, pairs: Sequence[tuple[str, str]]
) -> tuple[list[float], int]:
    """Scores of pairs, computed between the steps of other requests, and the tokens read for them."""
    most = service.settings.limits.inputs
    if not 1 <= len(pairs) <= most:
        raise RequestError(400, f"There are {len(pairs)} texts; 1 to {most} are accepted.", param="documents")
    check_ranks(loaded.model)

    def tokens(part: Sequence[tuple[str, str]]) -> list[list[int]]:
        for query, _ in part[:1]:
            check_length(loaded.model, [query])
        return [pair_ids(loaded.model, query, text) for query, text in part]

    found: list[float] = []
    n_tokens = 0
    for start in range(0, len(pairs), TOGETHER):
        ids = await asyncio.to_thread(tokens, pairs[start : start + TOGETHER])
        work = partial(scores, loaded.model, ids, loaded.lora)
        found += (await asyncio.wrap_future(loaded.runner.call(work))).tolist()
        n_tokens += sum(map(len, ids))
    return found, n_tokens
