"""A real node over loopback TCP with a real disk store, and somebody who signs what a coordinator signs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.auth.certificates import ALL_RIGHTS, Certificate, Countersigned
from holdfast.auth.documents import open_signed, sign, to_text
from holdfast.auth.grants import Grant, Receipt
from holdfast.auth.identity import Id, Identity
from holdfast.auth.signing import content_digest, sign_request
from holdfast.blob import Digest
from holdfast.clock import SlowClock, SystemClock, SystemRandomness
from holdfast.codec.pack_layout import encode_header
from holdfast.errors import StaleEpoch
from holdfast.files import Files, OsFiles
from holdfast.node.app import Node
from holdfast.node.layout import NodeDirectory, init_node, open_node
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.membership import Membership
from holdfast.node.settings import NodeSettings
from holdfast.pool import ThreadPool
from holdfast.stores.disk.store import DiskStore
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.network import TcpNetwork
from holdfast.wire.serve import Call, Service

SETTINGS = m.Settings(heartbeat_interval=30.0, offline_after=3, survive=4, floor=2)


def identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


COORDINATOR = identity(1)
VAULT = identity(2)
DEVICE = identity(3)
STRANGER = identity(4)


def pack(vault: Id, size: int, seed: int = 0) -> bytes:
    """A blob that begins as a pack of ``vault`` does."""
    header = encode_header(1, vault)
    filler = seed.to_bytes(8, "big") * (size // 8 + 1)
    return header + filler[: size - len(header)]


class Coordinator:
    """Answers heartbeats and joins, and signs grants and certificates; nothing else."""

    def __init__(self, network: TcpNetwork) -> None:
        self.identity = COORDINATOR
        self.epoch = (3, 100)
        self.position = b""
        self.heartbeats: list[m.Heartbeat] = []
        self.node_url = ""
        self._beat = asyncio.Event()
        self.joins: list[m.Join] = []
        self.revoked: list[int] | None = None
        self.revocations = 0
        self.answer_join: Callable[[Call, m.Join], m.Joined] | None = None
        self.url = ""
        self.service = Service(
            identity=self.identity,
            role="coordinator",
            name="coordinator",
            clock=SystemClock(),
            network=network,
            epoch=lambda: self.epoch,
        )
        self.service.add(routes.HEARTBEAT, self.heartbeat)
        self.service.add(routes.JOIN, self.join)

    async def start(self) -> None:
        listener = await self.service.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.port}"

    async def heartbeat(self, call: Call, message: m.Heartbeat) -> m.HeartbeatAnswer:
        self.heartbeats.append(message)
        self._beat.set()
        self.node_url = message.url or self.node_url
        if message.epoch > self.epoch[0]:
            raise StaleEpoch("this coordinator is an old one")
        return m.HeartbeatAnswer(
            state="up",
            time=0.0,
            settings=SETTINGS,
            epoch=self.epoch[0],
            commit=self.epoch[1],
            position=self.position,
            revocations=self.revocations,
            revoked=self.revoked,
            url=self.node_url,
        )

    async def heard(self, wanted: Callable[[m.Heartbeat], bool]) -> None:
        """Returns once the last heartbeat is as ``wanted``."""
        while not (self.heartbeats and wanted(self.heartbeats[-1])):
            self._beat.clear()
            await self._beat.wait()

    async def join(self, call: Call, message: m.Join) -> m.Joined:
        self.joins.append(message)
        assert self.answer_join is not None
        return self.answer_join(call, message)


@dataclass
class House:
    """One node directory, and whoever talks to the node in it."""

    path: Path
    coordinator: Coordinator
    network: TcpNetwork
    pool: ThreadPool
    files: Files = field(default_factory=OsFiles)
    clock: SystemClock = field(default_factory=SystemClock)
    settings: NodeSettings = field(default_factory=NodeSettings)
    capacity: int | None = None
    reserve: int = 0
    ballast: int = 0
    elsewhere: Path | None = None  # where the store lies, if not in the node's own directory
    node: Node | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _clients: dict[Id, HttpClient] = field(default_factory=dict)
    _running: contextlib.AsyncExitStack | None = None

    @property
    def directory(self) -> NodeDirectory:
        return open_node(self.path, files=self.files)

    @property
    def store_path(self) -> Path:
        return self.elsewhere or self.path

    async def make(self) -> None:
        store_id = await DiskStore.init(
            self.store_path, files=self.files, pool=self.pool, randomness=SystemRandomness()
        )
        directory = init_node(
            self.path,
            files=self.files,
            randomness=SystemRandomness(),
            name="attic",
            domain="house",
            store_id=store_id,
            capacity=self.capacity,
        )
        Membership(
            self.path / "network.json",
            files=self.files,
            coordinator=COORDINATOR.id,
            urls=[self.coordinator.url],
            settings=SETTINGS,
            epoch=(3, 1),
        ).save()
        assert directory.record.name == "attic"

    async def start(self) -> Node:
        """The node runs, like a process that was just started."""
        directory, membership = self.directory, Membership.load(self.path, files=self.files)
        stack = self._running = contextlib.AsyncExitStack()
        slow_clock: SlowClock = directory.load_clock()
        slow_clock.start(self.clock)
        pools = [ThreadPool(4, "sync"), ThreadPool(1, "ledger"), ThreadPool(1, "ledger-read")]
        for pool in pools:
            stack.callback(pool.close)
        store = await DiskStore.open(
            self.store_path,
            files=self.files,
            pool=self.pool,
            sync_pool=pools[0],
            clock=self.clock,
            expected_id=directory.record.store_id,
            capacity_bytes=self.capacity,
            reserve_bytes=self.reserve,
            ballast_bytes=self.ballast,
            trash_clock=lambda: slow_clock.read(self.clock),
        )
        stack.push_async_callback(store.close)
        ledger = await Ledger.open(
            self.path, files=self.files, writer=pools[1], reader=pools[2], ballast_bytes=self.ballast
        )
        stack.push_async_callback(ledger.close, clean=False)  # after a stop it has no effect; otherwise: a crash
        http = HttpClient(identity=directory.identity, network=self.network, clock=self.clock)
        stack.push_async_callback(http.close)
        self.node = Node(
            directory,
            store=store,
            ledger=ledger,
            membership=membership,
            http=http,
            network=self.network,
            settings=self.settings,
            clock=self.clock,
            slow_clock=slow_clock,
            randomness=SystemRandomness(),
            pool=self.pool,
        )
        await self.node.start("127.0.0.1", 0)
        return self.node

    async def stop(self) -> None:
        """As SIGTERM does."""
        assert self.node is not None
        assert self._running is not None
        await self.node.stop()
        await self._running.aclose()
        self.node = self._running = None

    async def crash(self) -> None:
        """The process ends without a word; what was durable stays."""
        assert self.node is not None
        assert self._running is not None
        for worker in self.node.workers:
            await worker.stop()
        await self.node.service.stop(0)
        await self._running.aclose()
        self.node = self._running = None

    async def close(self) -> None:
        if self.node is not None:
            await self.crash()
        for client in self._clients.values():
            await client.close()
        await self.coordinator.service.stop(1)
        self.pool.close()

    # -- talking to the node

    @property
    def running(self) -> Node:
        assert self.node is not None, "the node does not run"
        return self.node

    @property
    def target(self) -> Target:
        return Target(self.running.id, self.running.url)

    def client(self, who: Identity = DEVICE) -> HttpClient:
        if who.id not in self._clients:
            self._clients[who.id] = HttpClient(identity=who, network=self.network, clock=self.clock)
        return self._clients[who.id]

    def grant(self, kind: str = "put", *, signer: Identity = COORDINATOR, **changes: Any) -> bytes:
        fields: dict[str, Any] = {
            "kind": kind,
            "node": self.directory.identity.id,
            "store": bytes.fromhex(self.directory.record.store_id),
            "vault": VAULT.id,
            "subject": DEVICE.id,
            "budget": 1 << 30 if kind == "put" else 0,
            "epoch": 3,
            "commit": 7,
            "expires": int(self.clock.now()) + 600,
        }
        return sign(Grant(**fields | changes), signer)

    def certificate(
        self, *, vault: Identity = VAULT, countersigner: Identity = COORDINATOR, serial: int = 1, **changes: Any
    ) -> bytes:
        fields: dict[str, Any] = {
            "vault": vault.id,
            "device": DEVICE.id,
            "rights": ALL_RIGHTS,
            "not_after": int(self.clock.now()) + 3600,
        }
        inner = sign(Certificate(**fields | changes), vault)
        return sign(Countersigned(certificate=inner, serial=serial), countersigner)

    async def put(self, data: bytes, grant: bytes | None = None, who: Identity = DEVICE) -> Receipt:
        """Puts ``data``; the receipt, checked."""
        digest = Digest.of(data)
        envelope = await self.client(who).put_blob(self.target, digest, len(data), data, grant=grant or self.grant())
        receipt = open_signed(Receipt, envelope, self.running.id)
        assert (receipt.digest, receipt.size, receipt.node) == (digest, len(data), self.running.id)
        assert receipt.store == bytes.fromhex(self.running.store.id)
        return receipt

    async def get(self, digest: Digest, grant: bytes | None = None, who: Identity = DEVICE) -> bytes:
        found = await self.client(who).read_blob(
            self.target, digest, None, size_max=64 << 20, grant=grant or self.certificate()
        )
        return bytes(found)

    async def raw(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        grant: bytes | None = None,
        who: Identity = DEVICE,
        receiver: Id | None = None,
        then: Callable[[dict[str, str]], None] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """A signed request sent byte by byte as said; ``then`` may change its headers after signing."""
        host = self.running.url.removeprefix("http://")
        fields = {"host": host, "holdfast-to": str(receiver or self.running.id), **(headers or {})}
        if grant is not None:
            fields["holdfast-grant"] = to_text(grant)
        fields |= sign_request(who, method, f"http://{host}{path}", fields, self.clock.now())
        if then is not None:
            then(fields)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
        try:
            head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(head.encode() + b"\r\n" + body)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            lines = answer.decode().split("\r\n")
            found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = 0 if method == "HEAD" else int(found.get("content-length", 0))
            return int(lines[0].split()[1]), found, await reader.readexactly(length)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def raw_put(self, data: bytes, **changes: Any) -> int:
        """The status of a put of ``data``; ``changes`` as in ``raw``."""
        digest = Digest.of(data)
        headers = {"content-length": str(len(data)), "content-digest": content_digest(digest)}
        path = changes.pop("path", f"/v1/blobs/{digest}")
        headers |= changes.pop("headers", {})
        changes.setdefault("grant", self.grant())
        status, _, _ = await self.raw("PUT", path, headers=headers, body=changes.pop("body", data), **changes)
        return status

    def kept(self) -> list[str]:
        """The names of all files of the store's blobs and of what is on its way in."""
        return [
            path.name
            for part in ("objects", "incoming")
            for path in (self.store_path / part).rglob("*")
            if path.is_file()
        ]

    def blob_path(self, digest: Digest) -> Path:
        text = str(digest)
        return self.store_path / "objects" / text[:2] / text
