"""A coordinator that runs, nodes that only answer for their health, devices that only sign: what handlers need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from holdfast.auth.certificates import ALL_RIGHTS, Certificate
from holdfast.auth.documents import sign
from holdfast.auth.grants import Receipt
from holdfast.auth.identity import Identity
from holdfast.auth.invites import Invite, SecretRequest, check_proof, from_line, proof
from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.codec.ref_fields import RefClear, RefKind, encode_clear
from holdfast.codec.refs import NONCE_BYTES, SEALED_STEP_BYTES, etag, keep_list, parse_record
from holdfast.codec.sealer import SEAL_OVERHEAD
from holdfast.coordinator.app import Coordinator
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.coordinator.setup import CoordinatorMade, init_coordinator, load_identity, open_database
from holdfast.files import OsFiles
from holdfast.metadata.database import Database
from holdfast.pool import InlinePool, ThreadPool
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.network import TcpNetwork
from holdfast.wire.routes import Route
from holdfast.wire.serve import Service

Q = TypeVar("Q")
A = TypeVar("A")


class SkippingClock(SystemClock):
    """The machine's clock, which a test may push forward."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def skip(self, seconds: float) -> None:
        self.skipped += seconds

    def now(self) -> float:
        return super().now() + self.skipped

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


def tag_of(name: str) -> bytes:
    return hashlib.sha256(b"name " + name.encode()).digest()


def digest_of(name: str) -> Digest:
    return Digest.of(b"pack " + name.encode())


BASE = digest_of("base")


class Member:
    """Somebody who asks the coordinator."""

    def __init__(self, hall: Hall, identity: Identity) -> None:
        self.hall = hall
        self.identity = identity
        self.id = identity.id
        self.http = HttpClient(identity=identity, network=hall.network, clock=hall.clock)
        hall.members.append(self)

    async def ask(self, route: Route[Q, A], message: Q | None = None, path: Mapping[str, str] | None = None) -> A:
        return await self.http.call(self.hall.target, route, message, path=path or {}, tries=1)


class FakeNode(Member):
    """Joins, beats, gives receipts; keeps nothing."""

    def __init__(self, hall: Hall, identity: Identity, name: str, domain: str, store: bytes) -> None:
        super().__init__(hall, identity)
        self.name = name
        self.domain = domain
        self.store = store
        self.url = ""
        self.sequence = 0
        self.service = Service(identity=identity, role="node", name=name, clock=hall.clock, network=hall.network)

    async def join(self, invite: Invite) -> m.Joined:
        joined = await self.ask(
            routes.JOIN,
            m.Join(
                invite=invite.id,
                role="node",
                proof=proof(invite.secret, "join", self.id, invite.coordinator, "node"),
                node=m.NodeFacts(name=self.name, store=self.store, domain=self.domain, capacity=1 << 40),
            ),
        )
        check_proof(joined.proof, invite.secret, "accept", self.id, invite.coordinator, "node")
        return joined

    async def serve(self) -> None:
        listener = await self.service.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.port}"

    async def beat(self, **changes: Any) -> m.HeartbeatAnswer:
        facts: dict[str, Any] = {
            "store": self.store, "sequence": self.sequence, "count": 0, "root": bytes(16), "free": 1 << 40,
            "url": self.url,
        }  # fmt: skip
        return await self.ask(routes.HEARTBEAT, m.Heartbeat(**(facts | changes)))

    def receipt(self, digest: Digest, size: int, /, **changes: Any) -> bytes:
        self.sequence += 1
        facts: dict[str, Any] = {
            "node": self.id, "store": self.store, "digest": digest, "size": size, "sequence": self.sequence,
            "time": int(self.hall.clock.now()),
        }  # fmt: skip
        return sign(Receipt(**(facts | changes)), self.identity)


@dataclass
class Written:
    """A record that was made, and the keep list it names."""

    record: bytes
    keep: bytes

    @property
    def etag(self) -> Digest:
        return etag(self.record)


class Device(Member):
    """Writes into one vault. Its records hold zeros where sealed fields belong: the coordinator cannot tell."""

    def __init__(self, hall: Hall, identity: Identity, vault: Identity) -> None:
        super().__init__(hall, identity)
        self.vault = vault
        self._nonce = 0

    def certificate(self, rights: int = ALL_RIGHTS, **changes: Any) -> bytes:
        facts: dict[str, Any] = {
            "vault": self.vault.id, "device": self.id, "rights": rights,
            "not_after": int(self.hall.clock.now()) + 86400,
        }  # fmt: skip
        return sign(Certificate(**(facts | changes)), self.vault)

    async def join(self, invite: Invite, rights: int = ALL_RIGHTS) -> m.Joined:
        joined = await self.ask(
            routes.JOIN,
            m.Join(
                invite=invite.id,
                role=invite.role,
                proof=proof(invite.secret, "join", self.id, invite.coordinator, invite.role),
                certificate=self.certificate(rights),
            ),
        )
        check_proof(joined.proof, invite.secret, "accept", self.id, invite.coordinator, invite.role)
        return joined

    async def invite(self, role: Any, **changes: Any) -> Invite:
        request = SecretRequest(self.hall.randomness)
        facts: dict[str, Any] = {"role": role, "uses": 1, "expires": 86400, "sealing_key": request.public}
        answer = await self.ask(routes.INVITES, m.InviteRequest(**(facts | changes)))
        return Invite(
            id=answer.id,
            coordinator=self.hall.made.id,
            urls=tuple(answer.urls),
            role=role,
            secret=request.open(answer.sealed_secret),
            uses=1,
            expires=answer.expires,
        )

    def write(
        self,
        name: str,
        packs: Sequence[Digest] = (),
        *,
        over: bytes | None = None,
        kind: RefKind = RefKind.FILE,
        survive: int = 0,
        parent: str = "",
        **changes: Any,
    ) -> Written:
        """A record of ``name``; ``over``: the record that it replaces. Without ``packs`` it keeps the pack BASE."""
        packs = packs or [BASE]
        before = None if over is None else parse_record(over).clear
        keep = keep_list(packs)
        clear = RefClear(
            vault=self.vault.id,
            generation=1,
            name_tag=tag_of(name),
            parent_tag=tag_of("directory " + parent),
            kind=kind,
            survive=survive,
            version=1 if before is None else before.version + 1,
            previous=None if over is None else etag(over),
            author=self.id,
        )
        for field, value in changes.items():
            clear = msgspec.structs.replace(clear, **{field: value})
        self._nonce += 1
        nonce = self._nonce.to_bytes(NONCE_BYTES, "big")
        sealed = bytes(SEALED_STEP_BYTES + SEAL_OVERHEAD)
        return Written(encode_clear(clear) + Digest.of(keep) + nonce + sealed, keep)

    async def commit(
        self, *groups: Sequence[Written], packs: Sequence[m.PackReceipts] = (), **changes: Any
    ) -> list[list[m.RefResult]]:
        facts: dict[str, Any] = {
            "vault": self.vault.id,
            "packs": list(packs),
            "keeps": sorted({written.keep for group in groups for written in group}),
            "groups": [[m.RefChange(record=written.record) for written in group] for group in groups],
        }
        facts |= changes
        if any(BASE in keep for keep in facts["keeps"]):
            facts["packs"] = [*facts["packs"], self.hall.pack("base")]
        etags = b"".join(etag(change.record) for group in facts["groups"] for change in group)
        facts.setdefault("signature", self.identity.sign(hashlib.sha256(etags).digest()))
        return (await self.ask(routes.COMMIT, m.CommitRequest(**facts))).groups

    async def states(self, *groups: Sequence[Written], **changes: Any) -> list[list[str]]:
        return [[result.state for result in group] for group in await self.commit(*groups, **changes)]

    def path(self, name: str | None = None) -> dict[str, str]:
        found = {"vault": str(self.vault.id)}
        return found if name is None else {**found, "tag": tag_of(name).hex()}

    async def ref(self, name: str) -> m.RefAnswer:
        return await self.ask(routes.REF, None, self.path(name))


class Hall:
    """One network for one test."""

    def __init__(self, directory: Path, settings: CoordinatorSettings | None = None, *, database_url: str = "") -> None:
        self.directory = directory
        self.database_url = database_url
        self.settings = settings or CoordinatorSettings()
        self.clock = SkippingClock()
        self.randomness = SeededRandomness(7)
        self.network = TcpNetwork()
        self.members: list[Member] = []
        self.nodes: list[FakeNode] = []
        self._pool = ThreadPool(1, "database")
        self._database: Database | None = None
        self._http: HttpClient | None = None
        self._port = 0
        self.made: CoordinatorMade
        self.coordinator: Coordinator
        self.target: Target
        self.owner: Device

    def identity(self) -> Identity:
        return Identity.generate(self.randomness)

    async def make(self, *, survive: int = 4, nodes: int = 6) -> None:
        """A network of ``nodes`` nodes that are up, and ``owner``, the operator's device with a vault."""
        self.made = await init_coordinator(
            self.directory, name="hall", advertise=["http://127.0.0.1:7430"], files=OsFiles(), clock=self.clock,
            randomness=self.randomness, pool=self._pool, survive=survive, node_uses=max(nodes, 1) + 10,
            database_url=self.database_url,
        )  # fmt: skip
        await self.start()
        for number in range(nodes):
            await self.add_node(f"node-{number}")
        self.owner = Device(self, self.identity(), self.identity())
        await self.owner.join(from_line(self.made.invites["operator"]))

    async def add_node(self, name: str, *, domain: str | None = None, store: bytes | None = None) -> FakeNode:
        node = FakeNode(self, self.identity(), name, domain or name, store or self.randomness.bytes(16))
        await node.join(from_line(self.made.invites["node"]))
        await node.serve()
        answer = await node.beat()
        assert answer.state == "up", answer
        self.nodes.append(node)
        return node

    async def start(self) -> None:
        identity = load_identity(self.directory, OsFiles())
        self._database = await open_database(self.directory, self.database_url, self._pool)
        self._http = HttpClient(identity=identity, network=self.network, clock=self.clock)
        self.coordinator = await Coordinator.open(
            identity=identity, database=self._database, http=self._http, network=self.network, settings=self.settings,
            clock=self.clock, randomness=self.randomness, pool=InlinePool(),
        )  # fmt: skip
        listener = await self.coordinator.start("127.0.0.1", self._port)
        self._port = listener.port
        self.target = Target(identity.id, f"http://127.0.0.1:{listener.port}")

    async def stop(self) -> None:
        await self.coordinator.stop(0.5)
        assert self._database is not None
        assert self._http is not None
        await self._http.close()
        await self._database.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def run(self, function: Any, *args: Any) -> Any:
        """A query beside the coordinator."""
        return await self.coordinator.state.database.run(function, *args)

    async def close(self) -> None:
        for node in self.nodes:
            await node.service.stop(0.1)
        await self.stop()
        for member in self.members:
            await member.http.close()
        self._pool.close()

    def pack(self, name: str, *, copies: int | None = None, size: int = 1000, first: int = 0) -> m.PackReceipts:
        """A new pack with receipts of ``copies`` nodes, by default as many as the policy asks."""
        wanted = self.made.survive + 1 if copies is None else copies
        digest = digest_of(name)
        receipts = [node.receipt(digest, size) for node in self.nodes[first : first + wanted]]
        return m.PackReceipts(digest=digest, size=size, receipts=receipts)
