"""Nodes without a coordinator over loopback TCP with real disk stores: each its own authority, with authorized keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from holdfast.assemble.machine import THIS_MACHINE
from holdfast.assemble.outboxes import outbox_door
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.config import Config
from holdfast.files import OsFiles
from holdfast.node.app import Node
from holdfast.node.layout import NodeDirectory, init_node, open_node
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.membership import Membership
from holdfast.node.settings import NodeSettings
from holdfast.peers import manifest as manifests
from holdfast.peers.manifest import Entry
from holdfast.peers.origin import HttpOrigin
from holdfast.peers.settings import PeersSettings
from holdfast.pool import ThreadPool
from holdfast.stores.disk.store import DiskStore
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.network import TcpNetwork
from holdfast.wire.serve import parse_range

WRITER = Identity(b"\x21" * 32)
READER = Identity(b"\x22" * 32)
NOBODY = Identity(b"\x23" * 32)


class Cdn:
    """An origin that counts."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.requests: list[str] = []
        self.url = ""
        self.override: Callable[[web.BaseRequest], Any] | None = None
        self._listener: Any = None
        self._factory = web.Server(self._serve)

    async def start(self) -> None:
        self._listener = await TcpNetwork().listen(self._factory, "127.0.0.1", 0, tls=None)
        self.url = f"http://127.0.0.1:{self._listener.port}"

    async def stop(self) -> None:
        await self._listener.close()
        await self._factory.shutdown(0.1)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request.path)
        if self.override is not None:
            found = self.override(request)
            answered: web.StreamResponse = await found if asyncio.iscoroutine(found) else found
            return answered
        data = self.blobs.get(Digest.parse(request.path.rpartition("/")[2]))
        if data is None:
            return web.Response(status=404)
        span = parse_range(request.headers.get("range"), len(data))
        start, stop = span or (0, len(data))
        headers = {"content-range": f"bytes {start}-{stop - 1}/{len(data)}"} if span else {}
        return web.Response(body=data[start:stop], status=206 if span else 200, headers=headers)


class Home:
    """One node that can be started and stopped."""

    def __init__(self, street: Street, number: int) -> None:
        self.street = street
        self.path = street.path / f"node{number}"
        self.name = f"house{number}"
        self.pool = ThreadPool(2)
        self.peers = PeersSettings(peer_check_s=60)
        self.settings = NodeSettings()
        self.capacity: int | None = None
        self.with_origin = False
        self.node: Node | None = None
        self._running: contextlib.AsyncExitStack | None = None

    @property
    def directory(self) -> NodeDirectory:
        return open_node(self.path, files=OsFiles())

    @property
    def id(self) -> Id:
        return self.directory.identity.id

    async def make(self) -> None:
        store_id = await DiskStore.init(self.path, files=OsFiles(), pool=self.pool, randomness=SystemRandomness())
        init_node(
            self.path, files=OsFiles(), randomness=SystemRandomness(), name=self.name, domain="street",
            store_id=store_id,
        )  # fmt: skip

    def authorize(self, *lines: tuple[Id, str]) -> None:
        text = "# keys\n" + "".join(f"{id_} {rights} somebody\n" for id_, rights in lines)
        (self.path / "authorized_keys").write_text(text)

    async def start(self, port: int = 0) -> Node:
        directory = self.directory
        clock = SystemClock()
        stack = self._running = contextlib.AsyncExitStack()
        slow_clock = directory.load_clock()
        slow_clock.start(clock)
        pools = [ThreadPool(4), ThreadPool(1), ThreadPool(1)]
        for pool in pools:
            stack.callback(pool.close)
        store = await DiskStore.open(
            self.path, files=OsFiles(), pool=self.pool, sync_pool=pools[0], clock=clock,
            expected_id=directory.record.store_id, capacity_bytes=self.capacity,
        )  # fmt: skip
        stack.push_async_callback(store.close)
        ledger = await Ledger.open(self.path, files=OsFiles(), writer=pools[1], reader=pools[2])
        stack.push_async_callback(ledger.close, clean=False)
        http = HttpClient(identity=directory.identity, network=TcpNetwork(), clock=clock)
        stack.push_async_callback(http.close)
        origin = None
        if self.with_origin:
            template = self.street.cdn.url + "/{digest}"
            origin = HttpOrigin(template, http=ForeignHttp(network=TcpNetwork()), clock=clock)
        self.node = Node(
            directory, store=store, ledger=ledger,
            membership=Membership.alone(self.path, files=OsFiles(), me=directory.identity.id),
            http=http, network=TcpNetwork(), settings=self.settings, clock=clock, slow_clock=slow_clock,
            randomness=SystemRandomness(), pool=self.pool, peers=self.peers, origin=origin,
            outbox=outbox_door(self.path, directory.identity, http, Config.load(self.path), self.pool, THIS_MACHINE),
        )  # fmt: skip
        await self.node.start("127.0.0.1", port)
        return self.node

    async def stop(self) -> None:
        if self.node is not None and self._running is not None:
            await self.node.stop(1)
            await self._running.aclose()
            self.node = None

    async def check_peers(self) -> None:
        await self.running.exchange.exchange.unit()

    @property
    def running(self) -> Node:
        assert self.node is not None
        return self.node

    @property
    def target(self) -> Target:
        return Target(self.running.id, self.running.url)

    def knows(self, *homes: Home) -> None:
        """These are its peers; before ``start`` of this one, after that of the others."""
        self.peers = PeersSettings(
            peer=tuple(home.running.url for home in homes), peer_check_s=60, cache_bytes=self.peers.cache_bytes
        )


class Street:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.cdn = Cdn()
        self.homes: list[Home] = []
        self._clients: dict[Id, HttpClient] = {}

    async def build(self, count: int) -> list[Home]:
        for number in range(len(self.homes), len(self.homes) + count):
            home = Home(self, number)
            await home.make()
            self.homes.append(home)
        for home in self.homes:
            others = [(other.id, "peer") for other in self.homes if other is not home]
            home.authorize((WRITER.id, "read,write,delete"), (READER.id, "read"), *others)
        return self.homes

    async def acquaint(self) -> None:
        """Everybody learns of everybody."""
        for home in self.homes:
            if home.node is None:
                await home.start()
        for home in self.homes:
            for other in self.homes:
                if other is not home:
                    directory = home.running.exchange.exchange.directory
                    directory.meet("mdns", other.id, other.running.url, other.name)
        for home in self.homes:
            await home.check_peers()

    def client(self, who: Identity = READER) -> HttpClient:
        if who.id not in self._clients:
            self._clients[who.id] = HttpClient(identity=who, network=TcpNetwork(), clock=SystemClock())
        return self._clients[who.id]

    async def put(self, home: Home, data: bytes, who: Identity = WRITER) -> Digest:
        digest = Digest.of(data)
        await self.client(who).put_blob(home.target, digest, len(data), data)
        return digest

    async def get(self, home: Home, digest: Digest, who: Identity = READER, **more: Any) -> bytes:
        async with self.client(who).get_blob(home.target, digest, **more) as body:
            return b"".join([bytes(piece) async for piece in body])

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        for home in self.homes:
            await home.stop()
            home.pool.close()
        await self.cdn.stop()


@contextlib.asynccontextmanager
async def street(path: Path) -> AsyncIterator[Street]:
    made = Street(path)
    await made.cdn.start()
    try:
        yield made
    finally:
        await made.close()


def manifest_of(name: str, files: dict[str, bytes]) -> bytes:
    """In the stored form."""
    return manifests.encode(
        manifests.make(name, ((path, Entry(Digest.of(data), len(data))) for path, data in files.items()))
    )
