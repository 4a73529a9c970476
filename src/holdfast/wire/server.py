"""An HTTP server's connections, bounded in number; what is asked on them is answered by whoever owns the server.

Where an address, or the server, has as many connections as it may have, a new one takes the place of the oldest on
which nothing is under way: so neither slow nor idle ones keep others out (docs/interfaces.md, Limits).
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable

from holdfast import logs
from holdfast.wire.channel import SCRATCH_BYTES
from holdfast.wire.connection import Connection
from holdfast.wire.request_head import RequestHead

CONNECTIONS_PER_ADDRESS = 512
CONNECTIONS_MAX = 4096
"""Of one server, where the process may have at least twice as many descriptors."""
REFUSALS_TOLD_S = 10.0
"""One line in the log for all connections that are refused in this time."""

_log = logs.get_logger(__name__)


class Server:
    """The protocol factory of a listener. Use from one event loop."""

    def __init__(self, answer: Callable[[Connection, RequestHead], Awaitable[None]]) -> None:
        """``answer`` sends exactly one answer; Gone, if who asked does not want it any more."""
        self.answer = answer
        self.closing = False
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.connections: dict[Connection, None] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = CONNECTIONS_MAX if descriptors < 0 else min(CONNECTIONS_MAX, descriptors // 2)
        self._told = -REFUSALS_TOLD_S

    def __call__(self) -> Connection:
        return Connection(self)

    def admit(self, connection: Connection) -> bool:
        """May it stay? If there are too many, the oldest one without a request under way goes instead."""
        near = self._by_address.setdefault(connection.address, {})
        stays = _room(near, CONNECTIONS_PER_ADDRESS) and _room(self.connections, self._most)
        now = asyncio.get_running_loop().time()
        if not stays and now >= self._told + REFUSALS_TOLD_S:
            self._told = now
            _log.warning("connection_refused", address=connection.address, limit=CONNECTIONS_PER_ADDRESS)
        near[connection] = self.connections[connection] = None
        return stays and not self.closing

    def leave(self, connection: Connection) -> None:
        """It has ended."""
        self.connections.pop(connection, None)
        near = self._by_address.get(connection.address)
        if near is not None:
            near.pop(connection, None)
            if not near:
                del self._by_address[connection.address]

    def drain(self) -> None:
        """From now on each connection ends after what is under way on it."""
        self.closing = True
        for connection in list(self.connections):
            if connection.task is None:
                connection.close()

    async def close(self, timeout_s: float) -> None:
        """Ends all connections; what is under way has ``timeout_s`` seconds to end by itself. May be called twice."""
        self.drain()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()


def _room(connections: dict[Connection, None], most: int) -> bool:
    """Is there room for one more, now that the oldest idle one was ended, if need be?"""
    if len(connections) < most:
        return True
    for connection in connections:
        if connection.task is None:
            connection.abort()
            del connections[connection]
            return True
    return False
