"""What nodes and coordinators have in common when they run as a process."""

from __future__ import annotations

import asyncio
import platform
import ssl
from contextlib import AsyncExitStack
from typing import Protocol
from urllib.parse import urlsplit

from holdfast.assemble.machine import Machine
from holdfast.auth.identity import Id
from holdfast.errors import BadConfig
from holdfast.telemetry import Metrics
from holdfast.wire.connection import Connection
from holdfast.wire.network import Listener
from holdfast.wire.request_head import RequestHead
from holdfast.wire.server import Server


class App(Protocol):
    """What nodes and coordinators have in common."""

    id: Id
    name: str
    url: str

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener: ...

    async def stop(self) -> None: ...


class Told(Protocol):
    """Metrics, of which only the text is wanted."""

    def text(self) -> bytes: ...


class Running:
    """A node or a coordinator with everything that was opened for it."""

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        listen: tuple[str, int],
        tls: ssl.SSLContext | None,
        opened: AsyncExitStack,
        machine: Machine,
    ) -> None:
        self.app = app
        self.id = app.id
        self.name = app.name
        self.secure = tls is not None
        self.metrics = metrics
        self._listen = listen
        self._tls = tls
        self._opened = opened
        self._machine = machine

    @property
    def url(self) -> str:
        """Where others reach it; known once it has started."""
        return self.app.url

    async def start(self) -> Listener:
        """Serves; Unavailable if the address cannot be had."""
        host, port = self._listen
        return await self.app.start(host, port, tls=self._tls)

    async def start_metrics(self, port: int) -> Listener:
        """Serves /metrics on loopback."""
        return await serve_metrics(self.metrics, port, self._machine, self._opened)

    async def abandon(self) -> None:
        """Closes what was opened without a goodbye, as the system does for a process that was killed."""
        await self._opened.aclose()

    async def stop(self) -> None:
        """Finishes what is under way, says goodbye, closes everything. May be called twice."""
        try:
            await self.app.stop()
        finally:
            await self._opened.aclose()


async def serve_metrics(metrics: Told, port: int, machine: Machine, opened: AsyncExitStack) -> Listener:
    """Serves /metrics on loopback, without a signature: what is counted is no secret on this machine.

    ``opened`` closes it.
    """

    async def answer(connection: Connection, head: RequestHead) -> None:
        found = head.path == "/metrics"
        body = metrics.text() if found else b""
        fields = {
            "content-type": "text/plain; version=0.0.4",
            "content-length": str(len(body)),
            "x-content-type-options": "nosniff",
        }
        await connection.send(200 if found else 404, fields, b"" if head.method == "HEAD" else body)

    server = Server(answer)
    listener = await machine.network.listen(server, "127.0.0.1", port, tls=None)
    opened.push_async_callback(server.close, 1.0)
    opened.push_async_callback(listener.close)
    return listener


def host_name(given: str | None) -> str:
    """The name ``given``, else this host's."""
    return (given or platform.node() or "nameless")[:128]


async def outward_url(coordinator: str, port: int, tls: ssl.SSLContext | None) -> str:
    """This host's address on the way to the coordinator; no packet is sent to find it."""
    if port == 0:
        raise BadConfig("--listen with port 0 on all addresses needs --advertise URL")
    parts = urlsplit(coordinator)
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(parts.hostname or "", parts.port or 80)
        )
    except OSError as error:
        raise BadConfig(f"this host's address towards {coordinator} is unknown ({error}); use --advertise") from error
    try:
        host = str(transport.get_extra_info("sockname")[0])
    finally:
        transport.close()
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{host}:{port}"
