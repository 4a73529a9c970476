"""A server's connections: bounded in number, in the time a request's header may take, and in how slowly one may read.

A client that sends its header byte by byte, or nothing at all, holds a connection for at most ``HEADER_S``; one that
reads its answer more slowly than ``WRITE_BYTES_PER_S_MIN`` is cut off (docs/interfaces.md, Limits). Where an address,
or the server, has as many connections as it may have, a new one takes the place of the oldest on which nothing is
under way: so neither slow nor idle ones keep others out.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from holdfast import errors, logs
from holdfast.wire import messages as m

HEADER_BYTES_MAX = 16 << 10
HEADER_S = 10.0
IDLE_S = 75.0
WRITE_CHECK_S = 30.0
WRITE_BYTES_PER_S_MIN = 16 << 10
CONNECTIONS_PER_ADDRESS = 512
CONNECTIONS_MAX = 4096
"""Of one server, where the process may have at least twice as many descriptors."""
REFUSALS_TOLD_S = 10.0
"""One line in the log for all connections that are refused in this time."""
READ_BUFFER_BYTES = 2 << 20

_NOT_HTTP = m.encode(
    m.Problem(type="bad-request", title=errors.BadRequest.__name__, status=400, detail="this is no HTTP/1.1 request")
)
_log = logs.get_logger(__name__)


class Connection(RequestHandler):
    """aiohttp's connection with deadlines: for each request's header, and for what is written but not read."""

    __slots__ = ("_address", "_header_timer", "_owner", "_unread", "_write_timer")

    def __init__(self, owner: ConnectionFactory, **options: Any) -> None:
        super().__init__(owner, **options)
        self._owner = owner
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._address = ""

    @property
    def idle(self) -> bool:
        """Is nothing under way on it but, maybe, a header?"""
        waiter = self._waiter
        return waiter is not None and not waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        super().connection_made(transport)
        if self._owner.admit(self._address, self):
            self._header_timer = self._loop.call_later(HEADER_S, self._header_late)
        else:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._current_request is not None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif data and self._header_timer is None and not self._force_close:
            self._header_timer = self._loop.call_later(HEADER_S, self._header_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._write_timer = None
        self._owner.leave(self._address, self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        if self._paused:  # after a file over TLS asyncio tells this protocol what another one had heard the begin of
            super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP. It repeats nothing of what came, and only a bug of ours is logged."""
        if isinstance(exc, ConnectionError):
            raise exc  # who asked has gone: aiohttp ends the connection
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun")
        headers = {
            "server": "holdfast",
            "content-type": "application/problem+json",
            "x-content-type-options": "nosniff",
        }
        response = web.Response(status=400, body=_NOT_HTTP, headers=headers)
        response.force_close()
        return response

    def _header_late(self) -> None:
        self._header_timer = None
        if self.idle:
            self.force_close()

    def _watch(self) -> None:
        if self.transport is not None:
            self._unread = self.transport.get_write_buffer_size()
            self._write_timer = self._loop.call_later(WRITE_CHECK_S, self._read_late)

    def _read_late(self) -> None:
        self._write_timer = None
        transport = self.transport
        if transport is None:
            return
        if self._unread - transport.get_write_buffer_size() < WRITE_CHECK_S * WRITE_BYTES_PER_S_MIN:
            transport.abort()
        else:
            self._watch()


class ConnectionFactory(web.Server):
    """Makes a connection for each caller; the protocol factory of a listener."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler)
        self._by_address: dict[str, dict[Connection, None]] = {}
        self._all: dict[Connection, None] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._told = -REFUSALS_TOLD_S
        self._most = CONNECTIONS_MAX if descriptors < 0 else min(CONNECTIONS_MAX, descriptors // 2)

    def admit(self, address: str, connection: Connection) -> bool:
        """May it stay? If there are too many, the oldest one without a request under way goes instead."""
        near = self._by_address.setdefault(address, {})
        stays = _room(near, CONNECTIONS_PER_ADDRESS) and _room(self._all, self._most)
        now = asyncio.get_running_loop().time()
        if not stays and now >= self._told + REFUSALS_TOLD_S:
            self._told = now
            _log.warning("connection_refused", address=address, limit=CONNECTIONS_PER_ADDRESS)
        near[connection] = self._all[connection] = None
        return stays

    def leave(self, address: str, connection: Connection) -> None:
        self._all.pop(connection, None)
        near = self._by_address.get(address)
        if near is not None:
            near.pop(connection, None)
            if not near:
                del self._by_address[address]

    def close_idle(self) -> None:
        """Closes the connections on which no request is being answered."""
        for connection in self.connections:
            if connection._current_request is None:
                connection.force_close()

    def __call__(self) -> RequestHandler:
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S,
            access_log=None,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            lingering_time=2.0,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
        )


def _room(connections: dict[Connection, None], most: int) -> bool:
    """Is there room for one more, now that the oldest idle one was closed, if need be?"""
    if len(connections) < most:
        return True
    for connection in connections:
        if connection.idle:
            connection.force_close()
            del connections[connection]
            return True
    return False
