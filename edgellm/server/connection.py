"""One client's connection: how long it may take for a request to come, and for an answer to be read.

uvicorn itself waits for ever for the rest of a header and for a client that does not read.
"""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgellm.server.errors import RETRY_AFTER_S, RequestError, openai_error
from edgellm.server.pacing import Pacing
from edgellm.server.settings import Limits

# A large answer gets the time that a link of this speed takes, besides the deadline.
SLOWEST_BYTES_S = 64 * 1024


def connection_class(given: Limits) -> type[Connection]:
    """The protocol that uvicorn is to run, with these limits."""

    class Limited(Connection):
        limits = given
        pacing = Pacing(given.refusals_s)

    return Limited


class Connection(H11Protocol):
    """uvicorn's protocol with deadlines, an end to the number of connections, and errors as JSON.

    What has been begun has to be completed within `header_s`: a request's header, or a body that nobody
    reads any more. What the kernel does not take of an answer has to be taken within `write_stall_s`. At the
    limit of `connections`, the one that has been idle longest makes way for a new one. Whoever sends one
    thing after another that is no request waits for the answers to that (`pacing`).
    """

    limits = Limits()
    pacing = Pacing(limits.refusals_s)
    _unread: asyncio.TimerHandle | None = None
    _unsent: asyncio.TimerHandle | None = None
    _unsaid: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        # The application waits, and the deadline runs, as soon as the kernel holds all that it takes.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self.limits.connections:
            self._make_room()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._unwatch()
        if self._unsaid is not None:
            self._unsaid.cancel()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._unsaid is not None:
            return
        super().data_received(data)
        if self.conn.their_state is h11.DONE and len(self._held) <= self.limits.header_bytes:
            # A few bytes of a next request must not hide from us that the client goes.
            self.flow.resume_reading()
        self._watch()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is not h11.DONE:
            self._refuse_in_turn(RequestError(400, "The body is shorter than its header says."))
            return True  # so that it can be said
        return self._unsaid is not None

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        size = self.transport.get_write_buffer_size()
        seconds = self.limits.write_stall_s + size / SLOWEST_BYTES_S
        self._unsent = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unsent is not None:
            self._unsent.cancel()
            self._unsent = None

    def send_400_response(self, msg: str) -> None:
        """Say what was wrong with the bytes that came, and close."""
        if self.transport.is_closing():
            return
        if len(self._held) > self.limits.header_bytes:
            limit = self.limits.header_bytes
            error = RequestError(431, f"The header is longer than {limit} bytes; that is the limit.")
        else:
            error = RequestError(400, "This is not an HTTP/1.1 request.")
        self._refuse_in_turn(error)

    @property
    def idle(self) -> bool:
        """True if no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _held(self) -> bytes:
        """Received bytes that are not yet a part of a request."""
        held: bytes = self.conn.trailing_data[0]
        return held

    def _watch(self) -> None:
        """Run the deadline while the client owes us the rest of something."""
        begun = self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self._held))
        unread = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not (begun or unread) or self.transport.is_closing():
            self._unwatch()
        elif self._unread is None:
            self._unread = self.loop.call_later(self.limits.header_s, self._give_up)

    def _unwatch(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        if self._held:
            seconds = self.limits.header_s
            self._refuse(RequestError(408, f"The header did not come within {seconds:g} seconds."))
        else:
            self.transport.close()

    def _make_room(self) -> None:
        idle = [other for other in self.connections if isinstance(other, Connection) and other.idle]
        oldest = min(idle, key=lambda other: other.idle_since)
        if oldest is self:
            limit = self.limits.connections
            self._refuse(RequestError(503, f"All {limit} connections are in use; try again."))
        else:
            oldest.transport.close()
            # uvicorn would do so in the next round of the loop, and a burst would find none closed.
            self.connections.discard(oldest)

    def _refuse_in_turn(self, error: RequestError) -> None:
        """Refuse as soon as it is the client's turn."""
        self._disconnect()
        delay = self.pacing.delay(self.client[0] if self.client else "", self.loop.time())
        if delay == 0.0:
            self._refuse(error)
            return
        self.flow.pause_reading()
        self._unsaid = self.loop.call_later(delay, self._refuse, error)

    def _disconnect(self) -> None:
        """Tell the application, if a request is under way, that nobody waits for its answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        self._disconnect()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(openai_error(error)).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            if error.status == 503:
                headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
            response = h11.Response(status_code=error.status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
