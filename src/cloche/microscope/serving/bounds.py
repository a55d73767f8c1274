"""Limits per client: bytes of a body, connections and time.

uvicorn does not limit the time that a request's headers take, answers that are not read, and the number of
connections without a request; `BoundedProtocol` adds these three limits.
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
    """Too many requests or streams at once."""

    status = 429


async def body_of(request: Request) -> bytes:
    """The request's body, chunked or not. Raises BadRequest if it is too large or takes too long."""
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
        raise BadRequest("The request was not sent completely.") from None
    return bytes(body)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with limits on connections, on the time that headers take, and on how long an answer may go unread.

    Also closes a connection whose request is still being sent long after it was answered.
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
        self._watch = self.loop.call_later(self.tick_seconds, self._check_limits)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_waiting()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP; if an answer has already begun, the connection is closed instead."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _update_waiting(self) -> None:
        """Tracks whether we wait for the client: for headers that it began, or for the rest of an answered request."""
        answering = self.cycle is not None and not self.cycle.response_complete
        idle = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is not None
        if answering or idle:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self.loop.time()

    def _check_limits(self) -> None:
        now = self.loop.time()
        left = self.transport.get_write_buffer_size()
        if left == 0 or left != self._unread:
            self._unread, self._moved = left, now
        late = self._waiting_since is not None and now - self._waiting_since > self.header_seconds
        if late or now - self._moved > self.unread_seconds:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(self.tick_seconds, self._check_limits)


def limits() -> dict[str, Any]:
    """The uvicorn settings for these limits."""
    return {
        "http": BoundedProtocol,
        "ws": "none",
        "proxy_headers": False,
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": 2,
    }
