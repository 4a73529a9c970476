"""A server's connections: bounded in number per address, and in the time a request's header may take.

A client that sends its header byte by byte holds a connection for at most ``HEADER_S`` (docs/interfaces.md, Limits).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from holdfast import logs

HEADER_BYTES_MAX = 16 << 10
HEADER_S = 10.0
IDLE_S = 75.0
CONNECTIONS_PER_ADDRESS = 512
READ_BUFFER_BYTES = 2 << 20

_log = logs.get_logger(__name__)


class Connection(RequestHandler):
    """aiohttp's connection with a deadline for each request's header."""

    __slots__ = ("_address", "_header_timer", "_owner")

    def __init__(self, owner: ConnectionFactory, **options: Any) -> None:
        super().__init__(owner, **options)
        self._owner = owner
        self._header_timer: asyncio.TimerHandle | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        super().connection_made(transport)
        if not self._owner.admit(self._address):
            _log.warning("connection_refused", address=self._address, limit=CONNECTIONS_PER_ADDRESS)
            self.force_close()

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        idle = waiter is not None and not waiter.done()
        super().data_received(data)
        if self._header_timer is not None:
            if not idle or self._messages:
                self._header_timer.cancel()
                self._header_timer = None
        elif idle and not self._messages:
            self._header_timer = asyncio.get_running_loop().call_later(HEADER_S, self._header_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._owner.leave(self._address)
        super().connection_lost(exc)

    def _header_late(self) -> None:
        self._header_timer = None
        self.force_close()


class ConnectionFactory(web.Server):
    """Makes a connection for each caller; the protocol factory of a listener."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler)
        self._per_address: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        self._per_address[address] += 1
        return self._per_address[address] <= CONNECTIONS_PER_ADDRESS

    def leave(self, address: str) -> None:
        self._per_address[address] -= 1
        if self._per_address[address] <= 0:
            del self._per_address[address]

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
