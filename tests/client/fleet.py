"""A real coordinator and real nodes in one process over TCP loopback, and vaults that use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from holdfast import assemble
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.device.home import Home, load_home
from holdfast.client.device.network import NetworkCalls, Seams, init_home
from holdfast.client.device.settings import ClientSettings
from holdfast.client.names.index import Index
from holdfast.client.vault import Vault
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.codec.keys import VaultKeys
from holdfast.config import Config
from holdfast.files import OsFiles
from holdfast.pool import ThreadPool
from holdfast.wire.http import HttpClient
from holdfast.wire.network import TcpNetwork
from holdfast.wire.routes import Route

SMALL = ClientSettings(
    chunk_bytes=64 << 10, pack_bytes=256 << 10, read_span_bytes=128 << 10, read_window_bytes=512 << 10
)
"""Small chunks and packs, so that many of them are quickly made."""


class LossyProxy:
    """Passes connections on to ``url``; an answer to a request that begins as told is lost with its connection."""

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition("://")[2].rpartition(":")
        self._to = (host, int(port))
        self._lose: bytes | None = None
        self.lost = 0
        self.url = ""

    async def __aenter__(self) -> LossyProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def lose(self, request: bytes) -> None:
        """The next answer to a request that begins so."""
        self._lose = request

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._to)
        doomed = False

        async def forth() -> None:
            nonlocal doomed
            while data := await reader.read(1 << 16):
                if self._lose is not None and data.startswith(self._lose):
                    doomed, self._lose = True, None
                there_writer.write(data)
                await there_writer.drain()

        async def back() -> None:
            while data := await there_reader.read(1 << 16):
                if doomed:
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(forth()), asyncio.create_task(back())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, there_writer):
            end.close()


class Fleet:
    """``make`` it, use it, ``close`` it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.coordinator: assemble.Running | None = None
        self.nodes: list[assemble.Running] = []
        self.url = ""
        self._user_invite = ""
        self._operator: Home | None = None
        self._opened = contextlib.AsyncExitStack()
        self._homes = 0
        self._home_of: dict[int, Home] = {}

    async def make(self, nodes: int = 6, survive: int = 4) -> None:
        (port,) = await assemble.free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        made = await assemble.init_coordinator(
            self.path / "coordinator", advertise=self.url, survive=survive, node_uses=nodes
        )
        self._listen = ("127.0.0.1", port)
        await self.start_coordinator()

        async def start(number: int) -> None:
            data = self.node_path(number)
            await assemble.init_node(data, join=made.invites["node"], name=f"node-{number}", domain=f"domain-{number}")
            running = await assemble.make_node(data, Config.load(None), listen=("127.0.0.1", 0))
            await running.start()
            self.nodes[number] = running

        self.nodes = [None] * nodes  # type: ignore[list-item]
        await asyncio.gather(*(start(number) for number in range(nodes)))
        self._operator = await self.home(made.invites["operator"])
        async with self.calls(self._operator) as calls:
            while sum(node.state == "up" for node in await calls.nodes()) < nodes:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def node_path(self, number: int) -> Path:
        return self.path / f"node-{number}"

    async def start_coordinator(self) -> None:
        self.coordinator = await assemble.make_coordinator(
            self.path / "coordinator", Config.load(None), listen=self._listen
        )
        await self.coordinator.start()

    async def stop_coordinator(self) -> None:
        assert self.coordinator is not None
        await self.coordinator.stop()
        self.coordinator = None

    async def close(self) -> None:
        await self._opened.aclose()
        for node in self.nodes:
            await node.stop()
        if self.coordinator is not None:
            await self.coordinator.stop()

    @contextlib.asynccontextmanager
    async def calls(self, home: Home) -> Any:
        http = HttpClient(identity=home.device, network=TcpNetwork(), clock=SystemClock())
        try:
            yield NetworkCalls(
                Coordinators(http, home.membership.coordinator, home.membership.urls), SystemRandomness()
            )
        finally:
            await http.close()

    async def invite(self, role: Any = "user", **words: Any) -> str:
        assert self._operator is not None
        async with self.calls(self._operator) as calls:
            line: str = await calls.invite(role, **words)
            return line

    def seams(self) -> Seams:
        pool = ThreadPool(2)
        self._opened.callback(pool.close)
        return Seams(OsFiles(), SystemClock(), SystemRandomness(), pool, TcpNetwork())

    async def home(self, invite: str | None = None, **words: Any) -> Home:
        self._homes += 1
        path = self.path / f"home-{self._homes}"
        return await init_home(path, invite or await self.invite(), self.seams(), **words)

    def open(self, home: Home, settings: ClientSettings = SMALL) -> Vault:
        """A vault on that home; closed with the fleet, if not before."""
        home = load_home(OsFiles(), home.path)
        http = HttpClient(identity=home.device, network=TcpNetwork(), clock=SystemClock())
        vault = Vault(
            keys=VaultKeys(home.root),
            device=home.device,
            certificate=home.membership.certificate,
            http=http,
            coordinators=Coordinators(http, home.membership.coordinator, home.membership.urls),
            index=Index(home.index_path, OsFiles(), ThreadPool(1)),
            pool=ThreadPool(2),
            clock=SystemClock(),
            randomness=SystemRandomness(),
            files=OsFiles(),
            settings=settings,
        )
        self._opened.push_async_callback(vault.close)
        self._home_of[id(vault)] = home
        return vault

    def home_of(self, vault: Vault) -> Home:
        return self._home_of[id(vault)]

    async def vault(self, settings: ClientSettings = SMALL) -> Vault:
        """A new owner's vault."""
        return self.open(await self.home(), settings)

    def wrap(
        self, number: int, route: Route[Any, Any], around: Callable[[Callable[..., Awaitable[Any]], Any, Any], Any]
    ) -> Callable[[], None]:
        """``around(handler, call, message)`` answers for a node's route; the returned function undoes it."""
        service: Any = self.nodes[number].app.service  # type: ignore[attr-defined]
        path = route.path.replace("{digest}", "0")
        handler = service._table.find(route.method, path)[0].handler
        service.add(route, lambda call, message: around(handler, call, message))
        return lambda: service.add(route, handler)

    def blobs(self, number: int) -> list[Path]:
        """The files of the packs that a node keeps; the coordinator's reflog is left out."""
        found = sorted(path for path in (self.node_path(number) / "objects").rglob("*") if path.is_file())
        return [path for path in found if path.read_bytes()[:6] == b"HFPACK"]
