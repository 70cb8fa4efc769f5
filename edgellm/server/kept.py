"""Answers that go on without their reader: a phone that locks, or a page that is loaded anew, picks them up.

A request that names its answer (`answer_id`) starts one. `GET /v1/answers/ID` streams it from its beginning,
as often as it is asked for, and `DELETE` ends it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from edgellm.errors import OverloadedError
from edgellm.server.errors import RequestError

log = logging.getLogger("edgellm.server")

# Time that an answer is kept, and goes on, without a reader.
KEEP_S = 600.0
MAX_KEPT = 64
# Bytes of all kept streams; the oldest ended ones without readers make room.
MAX_BYTES = 32 << 20
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


class KeptAnswer:
    """A stream that is read into memory as it comes, and can be followed any number of times."""

    def __init__(
        self, chunks: AsyncIterator[bytes], stop: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self.stop = stop
        self.n_bytes = 0
        self.n_readers = 0
        self._parts: list[bytes] = []
        self._news = asyncio.Event()
        self._on_end = on_end
        self._task = asyncio.create_task(self._read(chunks))
        self._task.add_done_callback(self._close)

    @property
    def ended(self) -> bool:
        """True once the stream is complete."""
        return self._task.done()

    async def follow(self) -> AsyncIterator[bytes]:
        """The stream from its beginning, and on as it comes."""
        place = 0
        while True:
            news = self._news
            while place < len(self._parts):
                yield self._parts[place]
                place += 1
            if self._task.done() and place == len(self._parts):
                return
            await news.wait()

    def cancel(self) -> None:
        """Drop the stream, at once."""
        self._task.cancel()

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self._parts.append(chunk)
            self.n_bytes += len(chunk)
            self._wake()

    def _close(self, task: asyncio.Task[None]) -> None:
        """The end of the task, which may be cancelled before it has begun."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a kept answer failed", exc_info=error)
        self._on_end()
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class KeptAnswers:
    """The kept answers of a server, by their names."""

    def __init__(self, keep_s: float = KEEP_S, max_bytes: int = MAX_BYTES) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._answers: dict[str, KeptAnswer] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def check(self, name: str) -> None:
        """RequestError for a name that cannot be given to a new answer."""
        if not _ID.fullmatch(name):
            raise RequestError(
                400,
                "answer_id must have 16 to 64 letters, digits, - or _; make it at random.",
                param="answer_id",
            )
        if name in self._answers:
            raise RequestError(409, "There is an answer of this answer_id already.", param="answer_id")

    def start(
        self, name: str, chunks: AsyncIterator[bytes], *, stop: Callable[[], None], on_end: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        """Have a stream read and kept; its chunks for the first reader.

        stop: asks the stream to end, as `DELETE` does. on_end: called when it has ended. OverloadedError if
        running answers take all places.
        """
        self.check(name)  # another request may have taken it meanwhile
        self._make_room()
        self._answers[name] = KeptAnswer(chunks, stop, on_end)
        self._arm(name)  # in case that not even the first reader comes
        return self.follow(name)

    async def follow(self, name: str) -> AsyncGenerator[bytes, None]:
        """The stream of an answer from its beginning."""
        answer = self.find(name)
        self._disarm(name)
        answer.n_readers += 1
        try:
            async for chunk in answer.follow():
                yield chunk
        finally:
            answer.n_readers -= 1
            if not answer.n_readers and self._answers.get(name) is answer:
                self._arm(name)

    def find(self, name: str) -> KeptAnswer:
        """The answer of this name; RequestError 404 if it is not kept, or not any more."""
        if name not in self._answers:
            raise RequestError(404, f"No answer {name[:64]!r} is kept.", code="answer_not_found")
        return self._answers[name]

    def close(self) -> None:
        """Drop all answers."""
        for name in list(self._answers):
            self._drop(name)

    def _make_room(self) -> None:
        idle = [name for name, answer in self._answers.items() if answer.ended and not answer.n_readers]
        while (
            len(self._answers) >= MAX_KEPT or sum(a.n_bytes for a in self._answers.values()) > self._max_bytes
        ):
            if not idle:
                raise OverloadedError(f"{len(self._answers)} kept answers are under way; try again later.")
            self._drop(idle.pop(0))

    def _arm(self, name: str) -> None:
        self._disarm(name)
        self._timers[name] = asyncio.get_running_loop().call_later(self._keep_s, self._drop, name)

    def _disarm(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _drop(self, name: str) -> None:
        self._disarm(name)
        self._answers.pop(name).cancel()
