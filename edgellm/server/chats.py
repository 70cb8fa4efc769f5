"""Conversations of the page that a server keeps, so that a phone and a laptop share them.

Only on a server whose owner says so (`--keep-chats`), and for everyone who has its key.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from edgellm.server.bodies import Body
from edgellm.server.chat_folder import ChatFolder
from edgellm.server.description import answers
from edgellm.server.errors import RequestError
from edgellm.server.routes import JSONRoute
from edgellm.server.service import Service, ServiceOf

router = APIRouter(prefix="/chats", tags=["edgellm"], route_class=JSONRoute)


class ChatBody(Body):
    """PUT /v1/chats/ID: a conversation as the page keeps it.

    changed: milliseconds since 1970 of its last change; the newest of two states is kept.
    """

    title: str
    changed: int
    messages: list[dict[str, Any]]
    dropped: int = 0


@router.get("", responses=answers("Chats"))
async def list_chats(service: ServiceOf) -> dict[str, Any]:
    """Every conversation that is kept, with the time of its last change."""
    return {"object": "list", "data": await asyncio.to_thread(_folder(service).listed)}


@router.get("/{chat_id}", responses=answers("Chat"))
async def get_chat(chat_id: str, service: ServiceOf) -> dict[str, Any]:
    """One conversation."""
    return await asyncio.to_thread(_folder(service).get, chat_id)


@router.put("/{chat_id}", responses=answers("Kept"))
async def put_chat(chat_id: str, body: ChatBody, service: ServiceOf) -> dict[str, Any]:
    """Keep a conversation, unless a newer state of it is kept."""
    folder = _folder(service)
    async with service.chats_lock:
        await asyncio.to_thread(folder.put, chat_id, body.model_dump())
    return {"id": chat_id, "changed": body.changed}


@router.delete("/{chat_id}", responses=answers("Kept"))
async def delete_chat(chat_id: str, changed: int, service: ServiceOf) -> dict[str, Any]:
    """Delete a conversation, on the other devices, too. changed: the time of that."""
    folder = _folder(service)
    async with service.chats_lock:
        await asyncio.to_thread(folder.put, chat_id, {"changed": changed, "deleted": True})
    return {"id": chat_id, "changed": changed}


def _folder(service: Service) -> ChatFolder:
    folder = service.settings.chats
    if folder is None:
        raise RequestError(
            404, "This server keeps no conversations; see --keep-chats.", code="chats_not_kept"
        )
    return folder
