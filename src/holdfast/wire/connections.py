"""The connections of an HTTP client: kept while they may be of use, bounded in number per server."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from holdfast.wire.answer_head import Head
from holdfast.wire.http1 import Body, Ended, Heard, Http1Connection
from holdfast.wire.network import CONNECT_TIMEOUT_S, IDLE_CONNECTION_S, Network


class Answer:
    """The answer to one request. Its connection is given back when all of the body was read, else it is closed."""

    def __init__(self, head: Head, connection: Http1Connection, server: _Server) -> None:
        self.status = head.status
        self.headers = head.headers
        self.size = connection.left
        """Bytes of the body."""
        self._connection = connection
        self._server = server

    async def read(self, into: memoryview, stall_s: float) -> int:
        """Some of the body, straight into ``into``; 0 after its end. TimeoutError after ``stall_s`` of silence."""
        return await self._connection.read(into, stall_s)

    async def read_exactly(self, into: memoryview, stall_s: float) -> None:
        """The next ``len(into)`` bytes of the body; ValueError if there are not so many."""
        await self._connection.read_exactly(into, stall_s)

    def here(self) -> bytes | None:
        """The body, if all of it has come already."""
        return self._connection.here()

    async def whole(self, stall_s: float) -> bytes:
        """The body. Bound ``size`` before."""
        data = bytearray(self.size)
        await self._connection.read_exactly(memoryview(data), stall_s)
        return bytes(data)

    def close(self) -> None:
        """Ends the use of the connection; once."""
        self._server.give_back(self._connection)


class _Server:
    """Connections to one address."""

    def __init__(self, owner: Connections, url: str) -> None:
        parts = urlsplit(url)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.idle: list[tuple[Http1Connection, float]] = []  # with the second since when; the last used at the end
        self._owner = owner
        self._busy: dict[Http1Connection, None] = {}
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def unused(self) -> bool:
        return not (self.idle or self._busy or self._opening or self._waiting)

    def kept(self) -> Http1Connection | None:
        """A connection that was in use before."""
        while self.idle:
            connection, _ = self.idle.pop()
            if connection.finished:
                self._busy[connection] = None
                return connection
            connection.abort()
        return None

    async def take(self) -> tuple[Http1Connection, bool]:
        """A connection, and whether it was in use before. OSError or TimeoutError if there is none to be had."""
        while True:
            connection = self.kept()
            if connection is not None:
                return connection, True
            if len(self._busy) + self._opening < self._owner.per_server:
                break
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()  # our turn came too late for us
                else:
                    self._waiting.remove(turn)
                raise
        self._opening += 1
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await self._owner.open(self)
        except BaseException:
            self._next()
            raise
        finally:
            self._opening -= 1
        self._busy[connection] = None
        return connection, False

    def give_back(self, connection: Http1Connection) -> None:
        """A connection after its exchange."""
        del self._busy[connection]
        if connection.finished and not self._owner.closed:
            self.idle.append((connection, asyncio.get_running_loop().time()))
            self._owner.sweep_soon()
        else:
            connection.abort()
        self._next()

    def lost(self, connection: Http1Connection) -> None:
        """A connection has ended by itself."""
        self.idle = [kept for kept in self.idle if kept[0] is not connection]

    def expire(self, before: float) -> None:
        """Closes what was idle since before that second."""
        old = [connection for connection, since in self.idle if since <= before]
        self.idle = [kept for kept in self.idle if kept[1] > before]
        for connection in old:
            connection.abort()

    def end(self) -> None:
        for connection in [*self._busy, *(kept for kept, _ in self.idle)]:
            connection.abort()
        self.idle = []

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class Connections:
    """All connections of one client. Use from one event loop; any number of requests at once."""

    def __init__(self, network: Network, *, per_server: int, tls: ssl.SSLContext | None) -> None:
        """``per_server``: connections to one address at the same time; more requests wait for their turn."""
        self.per_server = per_server
        self.closed = False
        self._network = network
        self._tls = tls
        self._servers: dict[str, _Server] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def request(
        self,
        url: str,
        method: str,
        where: str,
        headers: Mapping[str, str],
        body: Body = None,
        *,
        ask_first: bool = False,
        again: bool,
        stall_s: float,
        within_s: float | None = None,
    ) -> Answer:
        """Sends a request to ``url`` (``http(s)://host:port``) and returns when the head of its answer is there.

        ``within_s``: all of that takes no longer; ``stall_s``: no part of it does.

        A connection that was kept may have been closed by the server at the same moment; a request that may be sent
        ``again`` is then sent on a new one. OSError (BadAnswer, Ended) or TimeoutError, and what ``body`` raises.
        """
        server = self._servers.get(url)
        if server is None:
            server = self._servers[url] = _Server(self, url)
        end = math.inf if within_s is None else asyncio.get_running_loop().time() + within_s
        while True:
            connection, used = server.kept(), True
            if connection is None:
                async with asyncio.timeout_at(None if within_s is None else end):
                    connection, used = await server.take()
            try:
                head = await connection.exchange(
                    method, where, headers, body, ask_first=ask_first, stall_s=stall_s, end=end
                )
            except Ended as error:
                connection.abort()
                server.give_back(connection)
                if not (used and again and error.untouched):
                    raise
            except BaseException:
                connection.abort()
                server.give_back(connection)
                raise
            else:
                return Answer(head, connection, server)

    def tell(self, url: str, request: bytes, heard: Heard, *, stall_s: float) -> Callable[[], None] | None:
        """Sends a whole request if a connection to ``url`` is free, else None: ``request`` opens one. ``heard`` hears
        of the answer as for ``Http1Connection.tell``, unless what is returned is called before."""
        server = self._servers.get(url)
        connection = None if server is None else server.kept()
        if server is None or connection is None:
            return None

        def end() -> None:
            connection.hush()
            server.give_back(connection)

        def answered(answer: tuple[Head, bytes] | OSError) -> None:
            if isinstance(answer, OSError):
                connection.abort()
            server.give_back(connection)
            heard(answer)

        connection.tell(request, answered, stall_s)
        return end

    def close(self) -> None:
        """Ends all connections. May be called twice."""
        self.closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for server in self._servers.values():
            server.end()

    async def open(self, server: _Server) -> Http1Connection:
        """For ``_Server`` only."""
        if self.closed:
            raise ConnectionAbortedError("this client was closed")
        tls = (self._tls or ssl.create_default_context()) if server.tls else None
        protocol = Http1Connection(server.lost)
        await self._network.connect(protocol, server.host, server.port, tls=tls)
        return protocol

    def sweep_soon(self) -> None:
        """For ``_Server`` only: something is idle from now on."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_CONNECTION_S, self._sweep_idle)

    def _sweep_idle(self) -> None:
        self._sweep = None
        before = asyncio.get_running_loop().time() - IDLE_CONNECTION_S
        for url, server in list(self._servers.items()):
            server.expire(before)
            if server.idle:
                self.sweep_soon()
            if server.unused:
                del self._servers[url]
