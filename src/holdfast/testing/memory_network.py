"""Many hosts in one process: real clients and servers, joined in memory, with faults to order.

``MemoryNetwork`` is the whole; ``MemoryNetwork.host(name)`` is what one process sees of it and what it takes as its
``Network``. Hosts are dialled by name or by address; ``localhost`` is the dialler itself. There is no TLS.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.helpers import ceil_timeout
from aiohttp.tracing import Trace as RequestTrace

from holdfast.errors import Unavailable
from holdfast.testing.loop import VirtualLoop
from holdfast.testing.memory_link import Host, Link
from holdfast.testing.memory_transport import MemoryTransport, join, reset_by_peer
from holdfast.testing.virtual import Gate
from holdfast.wire.network import IDLE_CONNECTION_S

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
EPHEMERAL_PORT_MIN = 32768


class MemoryNetwork:
    """All hosts and links. Faults may be set at any time and hold until they are taken back."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self._hosts: dict[str, Host] = {}
        self._by_address: dict[str, Host] = {}
        self._processes: dict[str, HostNetwork] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._connections = 0

    def host(self, name: str) -> HostNetwork:
        """What the process on this host has as its network; a new one after a crash (which also brings power back)."""
        process = self._processes.get(name)
        if process is None:
            machine = self._machine(name)
            machine.gate = Gate()
            process = self._processes[name] = HostNetwork(self, machine)
            if not machine.up:
                machine.up = True
                self._links_changed(machine)
            self.loop.trace.record("start", name)
        return process

    def link(self, source: str, target: str) -> Link:
        """The directed link from ``source`` to ``target``; its methods are the faults of one direction."""
        found = self._links.get((source, target))
        if found is None:
            found = Link(self.loop, self._machine(source), self._machine(target))
            self._links[source, target] = found
        return found

    def links(self, name: str) -> list[Link]:
        """All links from and to the other hosts that exist now."""
        others = [other for other in self._hosts if other != name]
        return [link for other in others for link in (self.link(name, other), self.link(other, name))]

    def partition(self, a: str, b: str) -> None:
        """Cuts both directions. For one direction: ``link(a, b).cut()``."""
        self.link(a, b).cut()
        self.link(b, a).cut()

    def isolate(self, name: str) -> None:
        """Cuts all links of a host, but not the one to itself."""
        for link in self.links(name):
            link.cut()

    def heal(self, a: str | None = None, b: str | None = None) -> None:
        """Ends cuts and refusals: of all links, of those of host ``a``, or of those between ``a`` and ``b``."""
        for link in list(self._links.values()):
            ends = {link.source.name, link.target.name}
            if ({a, b} - {None}) <= ends:
                link.heal()

    def reset(self, a: str, b: str) -> int:
        """Breaks all connections between two hosts; both ends see a reset. How many there were."""
        machine, other = self._machine(a), self._machine(b)
        ends = [end for end in machine.connections if end.peer.host is other]
        for end in ends:
            end.break_off(reset_by_peer())
            end.peer.break_off(reset_by_peer())
        self.loop.trace.record("reset-connections", a, b, len(ends))
        return len(ends)

    def pause(self, name: str) -> None:
        """As SIGSTOP: the process reads, sends and accepts nothing, though the machine completes new connections.

        The process's clock does not wake anybody and its pool runs nothing, if they were given its ``gate``. Timers
        that go to the loop directly (``asyncio.timeout``) still fire.
        """
        self._machine(name).gate.close()
        self.loop.trace.record("pause", name)

    def is_paused(self, name: str) -> bool:
        """Has the process been stopped by ``pause``?"""
        return self._machine(name).gate.closed

    def resume(self, name: str) -> None:
        """As SIGCONT."""
        machine = self._machine(name)
        self.loop.trace.record("resume", name)
        machine.gate.open()
        for end in list(machine.connections):
            end.deliver_soon()
            end.sent_more_soon()

    def crash(self, name: str, *, silent: bool = False) -> None:
        """The process is gone: its listeners vanish, its connections are reset, its ``HostNetwork`` is dead for good.

        ``silent``: the machine lost its power. Nobody is told: dialling it hangs and open connections stall, until
        ``host(name)`` starts it again; then what is still sent on old connections is answered with a reset. Cancel the
        process's tasks before or right after: its protocols see their connections end.
        """
        self.loop.trace.record("crash", name, "silent" if silent else "loud")
        machine = self._machine(name)
        process = self._processes.pop(name, None)
        if process is not None:
            process.die()
        if silent:
            machine.up = False
        for end in list(machine.connections):
            if silent:
                end.power_off()
            else:
                end.abort()
        if silent:
            self._links_changed(machine)

    def _machine(self, name: str) -> Host:
        machine = self._hosts.get(name)
        if machine is None:
            number = len(self._hosts) + 1
            machine = Host(name, f"10.0.{number >> 8}.{number & 255}")
            self._hosts[name] = self._by_address[machine.address] = machine
        return machine

    def _links_changed(self, machine: Host) -> None:
        for link in list(self._links.values()):
            if machine in (link.source, link.target):
                link.changed()

    async def _connect(self, source: HostNetwork, name: str, port: int) -> MemoryTransport:
        """The client's end of a new connection; OSError as from a socket. Hangs while no segment comes through."""
        source.check_alive()
        machine = source.machine if name in LOOPBACK else self._hosts.get(name) or self._by_address.get(name)
        if machine is None:
            raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known: {name}")
        there, back = self.link(source.name, machine.name), self.link(machine.name, source.name)
        await there.cross()
        process = self._processes.get(machine.name)
        listener = None if process is None or there.refuses else process.listener(port, own=machine is source.machine)
        await back.cross()
        source.check_alive()
        if listener is None:
            self.loop.trace.record("refused", there.name, port)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connection refused by {machine.name} port {port}")
        self._connections += 1
        sockname, peername = (source.machine.address, source.ephemeral_port()), (machine.address, port)
        client = MemoryTransport(self.loop, source.machine, sockname, peername, contextvars.copy_context(), accept=None)
        server = MemoryTransport(
            self.loop, machine, peername, sockname, listener.context.copy(), accept=listener.accept
        )
        self.loop.trace.record("connect", self._connections, there.name, port)
        join(f"#{self._connections}", client, server, there, back)
        return client


class HostNetwork:
    """The ``Network`` of one process."""

    def __init__(self, network: MemoryNetwork, machine: Host) -> None:
        self.name = machine.name
        self.address = machine.address
        self.gate = machine.gate
        """Closed while the process is paused: hand it to its clock and its pool."""
        self.machine = machine
        self.alive = True
        self._network = network
        self._listeners: dict[int, deque[MemoryListener]] = {}
        self._last_port = EPHEMERAL_PORT_MIN

    def connector(self, *, limit_per_host: int, tls: ssl.SSLContext | None) -> aiohttp.BaseConnector:
        _no_tls(tls)
        return MemoryConnector(self._dial, limit_per_host=limit_per_host)

    async def connect(
        self, protocol: asyncio.BufferedProtocol, host: str, port: int, *, tls: ssl.SSLContext | None
    ) -> None:
        _no_tls(tls)
        transport = await self._dial(host, port)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    async def listen(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        reuse_port: bool = False,
    ) -> MemoryListener:
        """As ``Network.listen``. A listener on a loopback address is reached from its own host only."""
        _no_tls(tls)
        self.check_alive()
        await asyncio.sleep(0)
        port = port or self.ephemeral_port()
        taken = self._listeners.setdefault(port, deque())
        if taken and not (reuse_port and all(one.reuse_port for one in taken)):
            raise Unavailable(f"cannot listen on {host} port {port}: it is taken already on {self.name}")
        listener = MemoryListener(host, port, reuse_port, factory, contextvars.copy_context(), taken)
        taken.append(listener)
        self._network.loop.trace.record("listen", self.name, port)
        return listener

    def listener(self, port: int, *, own: bool) -> MemoryListener | None:
        """Who accepts the next connection to ``port``; several of one port take turns."""
        listeners = self._listeners.get(port, deque())
        listeners.rotate(-1)
        for listener in reversed(listeners):
            if own or listener.host not in LOOPBACK:
                return listener
        return None

    def ephemeral_port(self) -> int:
        self._last_port += 1
        return self._last_port

    def check_alive(self) -> None:
        """ConnectionAbortedError once the process has crashed."""
        if not self.alive:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"the process on {self.name} has crashed")

    def die(self) -> None:
        """Called by the network when the process crashes."""
        self.alive = False
        for listeners in self._listeners.values():
            for listener in list(listeners):
                listener.vanish()

    async def _dial(self, host: str, port: int) -> MemoryTransport:
        return await self._network._connect(self, host, port)


@dataclass(eq=False)
class MemoryListener:
    """A listening port of one process."""

    host: str
    port: int
    reuse_port: bool
    factory: Callable[[], asyncio.BaseProtocol]
    context: contextvars.Context
    _siblings: deque[MemoryListener]

    async def close(self) -> None:
        """No new connections; the ones that are open stay. May be called twice."""
        self.vanish()

    def vanish(self) -> None:
        if self in self._siblings:
            self._siblings.remove(self)

    def accept(self) -> asyncio.BaseProtocol | None:
        """The server's protocol of a new connection, None if nobody listens any more."""
        return self.factory() if self in self._siblings else None


class _ClientProtocol(ResponseHandler):
    """With a number as its hash, because connectors keep protocols in sets and close them in their order."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._serial = loop.next_serial()
        super().__init__(loop)

    def __hash__(self) -> int:
        return self._serial


class MemoryConnector(aiohttp.BaseConnector):
    """Dials over a memory network. Idle connections end by virtual time: aiohttp's own pool looks at the real clock."""

    _loop: VirtualLoop

    def __init__(self, dial: Callable[[str, int], Awaitable[MemoryTransport]], *, limit_per_host: int) -> None:
        super().__init__(keepalive_timeout=None, limit=0, limit_per_host=limit_per_host)
        self._dial = dial
        self._idle: dict[ResponseHandler, asyncio.TimerHandle] = {}

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[RequestTrace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        key = req.connection_key
        if key.is_ssl or req.proxy:
            raise ValueError(f"the memory network has neither TLS nor proxies: {req.url}")
        try:
            async with ceil_timeout(timeout.sock_connect, ceil_threshold=timeout.ceil_threshold):
                transport = await self._dial(key.host, key.port or 80)
        except OSError as error:
            if error.errno is None and isinstance(error, TimeoutError):
                raise  # of our own timer; aiohttp names it
            raise aiohttp.ClientConnectorError(key, error) from error
        protocol = _ClientProtocol(self._loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return protocol

    async def _get(self, key: ConnectionKey, traces: list[RequestTrace]) -> Connection | None:
        connection = await super()._get(key, traces)
        if connection is not None and connection.protocol is not None:
            timer = self._idle.pop(connection.protocol, None)
            if timer is not None:
                timer.cancel()
        return connection

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if any(kept is protocol for kept in _kept(self._conns, key)):
            self._idle[protocol] = self._loop.call_later(IDLE_CONNECTION_S, self._expire, key, protocol)

    def _expire(self, key: ConnectionKey, protocol: ResponseHandler) -> None:
        del self._idle[protocol]
        for entry in list(self._conns.get(key, ())):
            if entry[0] is protocol:
                self._conns[key].remove(entry)
                if not self._conns[key]:
                    del self._conns[key]
        protocol.close()


def _kept(connections: Any, key: ConnectionKey) -> Iterator[ResponseHandler]:
    return (protocol for protocol, _ in connections.get(key, ()))


def _no_tls(tls: ssl.SSLContext | None) -> None:
    if tls is not None:
        raise ValueError("the memory network has no TLS: its handshakes are random, so no run could be repeated")
