"""What one client may use of the server: bytes of a body, connections and time.

uvicorn has no limit on the time that a request's headers may take, none on an answer that nobody reads, and none on the
number of connections that have not asked anything yet; `BoundedProtocol` adds the three.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloche.microscope.folder.reading import BadRequest

MOST_BODY_BYTES = 1 << 16
BODY_SECONDS = 10.0
HEADER_SECONDS = 10.0
UNREAD_SECONDS = 30.0
TICK_SECONDS = 1.0
MOST_CONNECTIONS = 128


class Busy(BadRequest):
    """Too much at once."""

    status = 429


async def body_of(request: Request) -> bytes:
    """The request's body, however it is sent. BadRequest where it is too large or takes too long."""
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > MOST_BODY_BYTES:
                raise BadRequest(f"The request has more than {MOST_BODY_BYTES:,} bytes: shorten it.")

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except TimeoutError:
        raise BadRequest(f"The request took more than {BODY_SECONDS:.0f} seconds to arrive.") from None
    except ClientDisconnect:
        raise BadRequest("The request was not sent to its end.") from None
    return bytes(body)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a limit on connections, on the time that headers take, and on how long an answer may go unread.

    Ends also a connection whose request is still being sent after it was answered.
    """

    header_seconds = HEADER_SECONDS
    unread_seconds = UNREAD_SECONDS
    tick_seconds = TICK_SECONDS
    most_connections = MOST_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since: float | None = self.loop.time()  # for headers, or for the rest of an answered request
        self._unread, self._moved = 0, self.loop.time()
        self._watch: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._watch = self.loop.call_later(self.tick_seconds, self._look)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP; after an answer has begun there is no place for another, and the connection ends."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _note(self) -> None:
        """Whether the client now owes us something: headers that it began, or the end of a request that was answered."""
        answering = self.cycle is not None and not self.cycle.response_complete
        idle = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is not None
        if answering or idle:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self.loop.time()

    def _look(self) -> None:
        now = self.loop.time()
        left = self.transport.get_write_buffer_size()
        if left == 0 or left != self._unread:
            self._unread, self._moved = left, now
        late = self._waiting_since is not None and now - self._waiting_since > self.header_seconds
        if late or now - self._moved > self.unread_seconds:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(self.tick_seconds, self._look)


def limits() -> dict[str, Any]:
    """uvicorn's settings that go with the above."""
    return {
        "http": BoundedProtocol,
        "ws": "none",
        "proxy_headers": False,
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": 2,
    }
