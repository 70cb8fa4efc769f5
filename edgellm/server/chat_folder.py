"""Folder in which a server keeps conversations of its page, a file for each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import UsageError
from edgellm.server.errors import RequestError
from edgellm.system.files import PrivateFolder

MAX_CHATS = 5000
MAX_CHAT_BYTES = 2 << 20
_SUFFIX = ".json"
_PROBE = ".writable"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ChatFolder:
    """A folder with a file for each conversation, which only its owner can read.

    A deleted one leaves a file with the time of that, so that other devices delete it, too.
    """

    files: PrivateFolder

    def listed(self) -> list[dict[str, Any]]:
        """The id, the time of the last change, and the deletion of each conversation."""
        found: list[dict[str, Any]] = []
        for name in self._kept():
            if (chat := self._read(name)) is not None:
                found.append({name: chat[name] for name in ("id", "changed", "deleted") if name in chat})
        return found

    def get(self, name: str) -> dict[str, Any]:
        """A conversation; RequestError 404 if there is none of this id."""
        chat = self._read(name) if _ID.fullmatch(name) else None
        if chat is None or chat.get("deleted"):
            raise RequestError(404, f"No conversation {name[:64]!r} is kept.", code="chat_not_found")
        return chat

    def put(self, name: str, chat: Mapping[str, Any]) -> None:
        """Keep a conversation; RequestError 409 if a newer state is there, 413 if there is no room."""
        if not _ID.fullmatch(name):
            raise RequestError(
                400, "The id of a conversation has 1 to 64 letters, digits, - or _.", param="id"
            )
        old = self._read(name)
        if old is not None and old["changed"] > chat["changed"]:
            raise RequestError(409, "A newer state of this conversation is kept.", code="chat_changed")
        content = json.dumps({**chat, "id": name}, ensure_ascii=False).encode()
        if len(content) > MAX_CHAT_BYTES:
            raise RequestError(413, f"A conversation may have {MAX_CHAT_BYTES} bytes, and this has more.")
        if old is None and len(self._kept()) >= MAX_CHATS:
            raise RequestError(413, f"{MAX_CHATS} conversations are kept, and no more can be.")
        self.files.write(f"{name}{_SUFFIX}", content)

    def _kept(self) -> list[str]:
        """The ids, in order, of all conversations."""
        return sorted(name.removesuffix(_SUFFIX) for name in self.files.names() if name.endswith(_SUFFIX))

    def _read(self, name: str) -> dict[str, Any] | None:
        """Conversation kept under an id; None for no such id, or for a file that another program wrote."""
        try:
            with self.files.open(f"{name}{_SUFFIX}") as file:
                chat = json.load(file)
        except (OSError, ValueError, RecursionError):
            return None
        return chat if isinstance(chat, dict) and isinstance(chat.get("changed"), int) else None


def chat_folder(path: Path) -> ChatFolder:
    """A folder for conversations, made if need be; UsageError if it cannot be used."""
    try:
        files = PrivateFolder(path.resolve())
        files.write(_PROBE, b"")
        files.unlink(_PROBE)
    except OSError as error:
        raise UsageError(f"{path}: conversations cannot be kept there ({error.strerror}).") from None
    return ChatFolder(files)
