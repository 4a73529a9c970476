"""Sockets: the seam through which all traffic enters and leaves, so that a simulation can join processes in memory."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from holdfast.errors import Unavailable

if TYPE_CHECKING:
    import aiohttp  # loaded when a server that is not ours is first spoken to: most commands never do, and start sooner

CONNECT_TIMEOUT_S = 2.0
IDLE_CONNECTION_S = 60.0
BACKLOG = 512
HAPPY_EYEBALLS_S = 0.25  # RFC 8305, section 8: when the next address is tried beside one that does not answer
DNS_CACHE_S = 10  # machines move; a longer memory would outlive their addresses


class Listener(Protocol):
    """An open listening socket."""

    host: str
    port: int  # the real one, also when 0 was asked for

    async def close(self) -> None:
        """No new connections; the ones that are open stay. May be called twice."""
        ...


class Network(Protocol):
    """Where connections come from."""

    def connector(self, *, limit_per_host: int, tls: ssl.SSLContext | None) -> aiohttp.BaseConnector:
        """What an aiohttp client session dials with, for servers that are not ours; the session closes it."""
        ...

    async def connect(
        self, protocol: asyncio.BufferedProtocol, host: str, port: int, *, tls: ssl.SSLContext | None
    ) -> None:
        """Dials, and hands the connection to ``protocol``; OSError. As slow as the network is: set a deadline."""
        ...

    async def listen(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        reuse_port: bool = False,
    ) -> Listener:
        """Serves each connection with ``factory()``; Unavailable if the address cannot be had."""
        ...


class TcpNetwork:
    """The operating system's TCP."""

    def connector(self, *, limit_per_host: int, tls: ssl.SSLContext | None) -> aiohttp.BaseConnector:
        import aiohttp

        return aiohttp.TCPConnector(
            limit=0,  # only per host: one silent host must not use up what others need
            limit_per_host=limit_per_host,
            keepalive_timeout=IDLE_CONNECTION_S,
            ttl_dns_cache=DNS_CACHE_S,
            ssl=True if tls is None else tls,
        )

    async def connect(
        self, protocol: asyncio.BufferedProtocol, host: str, port: int, *, tls: ssl.SSLContext | None
    ) -> None:
        await asyncio.get_running_loop().create_connection(
            lambda: protocol, host, port, ssl=tls, happy_eyeballs_delay=HAPPY_EYEBALLS_S
        )

    async def listen(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        reuse_port: bool = False,
    ) -> Listener:
        loop = asyncio.get_running_loop()
        try:
            if port == 0 and host:
                # a name of several addresses would get another port on each: take the first
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                host = str(found[0][4][0])
            server = await loop.create_server(
                factory, host, port, ssl=tls, backlog=BACKLOG, reuse_port=reuse_port or None
            )
        except OSError as error:
            raise Unavailable(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        return TcpListener(server)


class TcpListener:
    """A listening TCP socket."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.host, self.port = server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        self._server.close()  # not wait_closed(): from Python 3.12 on it waits for open connections too
