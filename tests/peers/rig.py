"""A small cluster on virtual time: nodes with a store in memory and the real pull-through, and a CDN that counts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web

from holdfast.auth.identity import Identity
from holdfast.blob import Buffer, Digest, collect
from holdfast.clock import SeededRandomness
from holdfast.errors import NotFound
from holdfast.files import OsFiles
from holdfast.peers.directory import Address, Directory
from holdfast.peers.neighbours import Neighbours
from holdfast.peers.origin import HttpOrigin, Origin
from holdfast.peers.pull_through import Puller, PullThrough
from holdfast.pool import InlinePool
from holdfast.stores.memory import MemoryStore
from holdfast.stores.protocol import Store, put_bytes
from holdfast.testing.loop import VirtualLoop
from holdfast.testing.memory_network import MemoryNetwork
from holdfast.testing.virtual import VirtualClock
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient
from holdfast.wire.serve import BytesReply, Call, Service, parse_range

Behave = Callable[[Call, Digest], Any]


def blob(size: int, seed: int = 1) -> tuple[Digest, bytes]:
    data = SeededRandomness(seed).bytes(size)
    return Digest.of(data), data


class Cdn:
    """Any HTTP server: ``blobs`` by digest, answered after ``delay_s`` at ``rate`` bytes a second."""

    def __init__(self, network: MemoryNetwork, name: str = "cdn") -> None:
        self.host = network.host(name)
        self.url = f"http://{name}:80"
        self.blobs: dict[Digest, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.delay_s = 0.05
        self.rate: float | None = None
        self.override: Callable[[web.BaseRequest], Any] | None = None

    async def start(self) -> None:
        await self.host.listen(web.Server(self._serve), "0.0.0.0", 80, tls=None)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request.path)
        self.ranges.append(request.headers.get("range", ""))
        await asyncio.sleep(self.delay_s)
        if self.override is not None:
            found = self.override(request)
            answered: web.StreamResponse = await found if asyncio.iscoroutine(found) else found
            return answered
        data = self.blobs.get(Digest.parse(request.path.rpartition("/")[2]))
        if data is None:
            return web.Response(status=404, text="no such object")
        span = parse_range(request.headers.get("range"), len(data))
        start, stop = span or (0, len(data))
        headers = {"content-length": str(stop - start)}
        if span:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if span else 200, headers=headers)
        await response.prepare(request)
        for at in range(start, stop, 256 << 10):
            piece = data[at : min(at + (256 << 10), stop)]
            if self.rate:
                await asyncio.sleep(len(piece) / self.rate)
            await response.write(piece)
        return response


class Member:
    """One node: what it has, whom it asks, what it answers. ``behave`` may answer blob reads in another way."""

    def __init__(self, rig: Rig, number: int, *, origin: bool) -> None:
        self.name = f"node{number}"
        self.host = rig.network.host(self.name)
        self.identity = Identity(bytes([number]) * 32)
        self.url = f"http://{self.name}:7420"
        self.clock = VirtualClock(rig.loop, gate=self.host.gate)
        self.store: Store = MemoryStore()
        self.http = HttpClient(identity=self.identity, network=self.host, clock=self.clock)
        self.directory = Directory(self.identity.id, clock=self.clock)
        self.origin: Origin | None = None
        if origin:
            self.origin = HttpOrigin(
                rig.cdn.url + "/blobs/{digest}", http=ForeignHttp(network=self.host), clock=self.clock
            )
        self.neighbours = Neighbours(
            self.directory, http=self.http, origin=self.origin, finders={"list": rig.addresses}, timeout_s=5
        )
        self.puller = Puller(
            self.neighbours,
            keep=self.keep,
            directory=rig.path,
            files=OsFiles(),
            pool=InlinePool(),
            clock=self.clock,
            randomness=SeededRandomness(number),
            size_max=1 << 40,
        )
        self.through = PullThrough(self.store, self.puller)
        self.behave: Behave | None = None
        self.claims = False
        self.served = 0
        self.keep_error: Exception | None = None
        self.service = Service(identity=self.identity, role="node", name=self.name, clock=self.clock, network=self.host)
        self.service.add(routes.HAS, self._has)
        self.service.add(routes.BLOB_GET, self._get)

    async def keep(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        if self.keep_error is not None:
            raise self.keep_error
        await self.store.put(digest, size, source)

    async def _has(self, call: Call, message: m.HasRequest) -> m.HasAnswer:
        found = await self.store.stat(message.digests)
        return m.HasAnswer(bitmap=m.bitmap([self.claims or info is not None for info in found]))

    async def _get(self, call: Call, _: None) -> Any:
        digest = Digest.parse(call.path["digest"])
        control = call.headers.get("cache-control", "")
        if self.behave is not None:
            found = self.behave(call, digest)
            return await found if asyncio.iscoroutine(found) else found
        if (await self.store.stat([digest]))[0] is None:
            if control == "only-if-cached":
                raise NotFound("not here")
            async with self.puller.open(digest, narrow=control == "no-peers") as body:
                data = await collect(body, 1 << 30)
        else:
            async with self.store.get(digest) as body:
                data = await collect(body, 1 << 30)
        self.served += 1
        span = parse_range(call.headers.get("range"), len(data))
        start, stop = span or (0, len(data))
        return BytesReply(data[start:stop], len(data), span)

    async def read(self, digest: Digest) -> bytes:
        """As a client of this node would."""
        async with self.through.get(digest) as body:
            return await collect(body, 1 << 30)

    async def settle(self) -> None:
        """Returns once nothing is being pulled or kept."""
        while self.puller.under_way:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)

    async def give(self, data: bytes) -> Digest:
        return (await put_bytes(self.store, data)).digest


class Rig:
    """``members`` know each other and have been checked once."""

    def __init__(self, loop: VirtualLoop, path: Path) -> None:
        self.loop = loop
        self.path = path
        self.network = MemoryNetwork(loop)
        self.cdn = Cdn(self.network)
        self.members: list[Member] = []

    async def addresses(self) -> list[Address]:
        return [Address(member.url, member.identity.id, member.name) for member in self.members]

    async def start(self, count: int, *, origin: bool) -> None:
        await self.cdn.start()
        self.members = [Member(self, number, origin=origin) for number in range(1, count + 1)]
        for member in self.members:
            await member.service.start("0.0.0.0", 7420)
        await self.check()

    async def check(self) -> None:
        for member in self.members:
            await member.neighbours.unit()

    async def close(self) -> None:
        for member in self.members:
            await member.puller.close()
            await member.neighbours.close()
            await member.http.close()
        for member in self.members:
            await member.service.stop(1)


def cluster(count: int, scene: Callable[[Rig], Any], *, origin: bool = True, seed: int = 1) -> Any:
    """Runs ``scene`` in a cluster of ``count`` nodes on virtual time."""
    from holdfast.testing.loop import run

    async def play(loop: VirtualLoop) -> Any:
        with tempfile.TemporaryDirectory() as path:
            async with AsyncExitStack() as stack:
                rig = Rig(loop, Path(path))
                await rig.start(count, origin=origin)
                stack.push_async_callback(rig.close)
                result = await scene(rig)
                assert not list(Path(path).iterdir()), "nothing may be left where blobs pass through"
        assert not loop.unhandled
        return result

    return run(play, seed=seed, limit_s=3600)


async def stream(data: bytes, *, pause_s: float = 0.0, piece: int = 64 << 10) -> AsyncIterator[Buffer]:
    for at in range(0, len(data), piece):
        if pause_s:
            await asyncio.sleep(pause_s)
        yield data[at : at + piece]
