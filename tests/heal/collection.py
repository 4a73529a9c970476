"""A soak of collection on a virtual clock: real transactions and real collection, nodes that follow the node's rules.

What devices believe goes stale, uploads pause for a day, answers and grants come late or twice, the coordinator
restarts with its clock off by hours. After every cycle each acknowledged name must still have its packs on nodes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from holdfast.blob import Digest
from holdfast.clock import SlowClock
from holdfast.codec.refs import RefKind
from holdfast.coordinator import collect
from holdfast.coordinator.commit import Change, NewPack, Ref, Terms
from holdfast.coordinator.packs import RECEIPT_SHARE
from holdfast.coordinator.repair.tasks import _unplace
from holdfast.coordinator.transaction import run_batch
from holdfast.metadata import queries_members, queries_packs, queries_refs, queries_repair, tables
from holdfast.metadata.dialects import sqlite_engine
from holdfast.metadata.tables import PackState

HOUR, DAY = 3600.0, 86400.0
LEASE, HISTORY, TOMBSTONES, TRASH = DAY, 7 * DAY, 90 * DAY, 7 * DAY
NODES, COPIES, TAGS, CONTENTS = 5, 2, 12, 250
GRANT_S = HOUR
EVENTS_PER_CYCLE = 20


class SkewedClock:
    """True time since the beginning, and a wall clock that is off."""

    def __init__(self) -> None:
        self.true = 1e9
        self.off = 0.0

    def now(self) -> float:
        return self.true + self.off

    def monotonic(self) -> float:
        return self.true

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


@dataclass
class Node:
    """What the node's rules say (``Keeper``): every put is a new sequence, a delete takes no newer copy."""

    number: int
    copies: dict[Digest, int] = field(default_factory=dict)
    trash: dict[Digest, float] = field(default_factory=dict)
    sequence: int = 0

    def put(self, digest: Digest) -> int:
        self.trash.pop(digest, None)
        self.sequence += 1
        self.copies[digest] = self.sequence
        return self.sequence

    def delete(self, digest: Digest, sequence: int, now: float) -> bool:
        """False where the copy was put again since."""
        held = self.copies.get(digest)
        if held is not None and held > sequence:
            return False
        if held is not None:
            del self.copies[digest]
            self.trash[digest] = now
        return True

    def purge(self, now: float) -> None:
        for digest in [digest for digest, since in self.trash.items() if now - since >= TRASH]:
            del self.trash[digest]


@dataclass
class Receipts:
    """``stamp``: the coordinator's time that stands in them."""

    stamp: float
    sequences: dict[int, int]


@dataclass
class Upload:
    tag: bytes
    packs: list[Digest]
    receipts: dict[Digest, Receipts]
    registered: bool
    resume: float
    sends_receipts: bool
    leased: bool
    """It is resumed well within its lease: nothing that it has sent may be gone."""


@dataclass
class Delete:
    pack: int
    digest: Digest
    node: int
    sequence: int
    until: float


class Soak:
    """``run`` it. AssertionError when something that was acknowledged is missing."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = SkewedClock()
        self.slow = SlowClock(0.0, 0.0)
        self.slow.start(self.clock)
        self.engine = sqlite_engine(Path(":memory:"))
        with self.engine.begin() as connection:
            tables.metadata.create_all(connection)
        with self.engine.begin() as connection:
            self._create(connection)
        self.commit_number = 0
        self.made = 0
        self.packs = [Digest.of(b"pack %d" % number) for number in range(CONTENTS)]
        self.tags = [Digest.of(b"tag %d" % number) for number in range(TAGS)]
        self.refs: dict[bytes, Ref] = {}
        self.kept: dict[bytes, tuple[Digest, ...]] = {}  # etag -> packs, of every version ever acknowledged
        self.versions: dict[bytes, list[Ref]] = {tag: [] for tag in self.tags}  # as devices remember them
        self.known: set[Digest] = set()  # what devices believe to be there
        self.uploads: list[Upload] = []
        self.deletes: list[Delete] = []
        happens = "put gone delete restored not_restored resumed trashed deleted refused purged"
        self.counts = dict.fromkeys(happens.split(), 0)

    def _create(self, connection: Connection) -> None:
        self.vault = queries_members.add_vault(connection, b"v" * 32, None)
        facts: dict[str, Any] = {
            "coordinator": b"c" * 32, "name": "c", "urls": "", "epoch": 1, "commit_number": 0, "heard_epoch": 0,
            "heard_commit": 0, "slow_elapsed": 0.0, "slow_wall": 0.0, "survive": COPIES - 1, "policy_version": 1,
            "revocations": 0,
        }  # fmt: skip
        queries_members.create_network(connection, facts)
        node: dict[str, Any] = {
            "name": "n", "url": "", "reached_url": "", "domain": "d", "capacity": 1, "free": 1, "always_on": False,
            "read_only": False, "state": "up", "word": "", "sequence": 0, "blobs": 0, "root": b"r" * 16, "seen": 0.0,
        }  # fmt: skip
        self.nodes = {}
        for byte in range(NODES):
            number = queries_members.add_node(
                connection, {**node, "id": bytes([byte]) * 32, "store": bytes([byte]) * 16}
            )
            self.nodes[number] = Node(number)

    # --- the coordinator ---

    def slow_now(self) -> float:
        return self.slow.read(self.clock)

    def ask(self, change: Change) -> Any:
        numbers = frozenset(self.nodes)
        terms = Terms(
            slow=self.slow_now(), wall=self.clock.now(), lease_s=LEASE, history_s=HISTORY, tombstones_s=TOMBSTONES,
            survive=COPIES - 1, floor=1, live=numbers, counted=numbers,
            stores={number: bytes([number]) for number in numbers}, directory=RefKind.DIRECTORY,
        )  # fmt: skip
        with self.engine.begin() as connection:
            batch = run_batch(connection, [change], terms, self.commit_number)
        self.commit_number = batch.commit
        [outcome] = batch.outcomes
        return outcome

    def counted(self, receipts: dict[Digest, Receipts]) -> list[NewPack]:
        """Receipts as the coordinator takes them: those that are too old by its wall clock are left out."""
        oldest = self.clock.now() - LEASE * RECEIPT_SHARE
        return [
            NewPack(digest, 10, one.sequences if one.stamp >= oldest else {})
            for digest, one in sorted(receipts.items())
        ]

    def restart(self) -> None:
        """The coordinator comes back, its wall clock off by up to two hours the one way or the other."""
        self.slow_now()
        self.clock.true += self.chance.uniform(0, 600)
        self.clock.off = self.chance.choice([-2 * HOUR, 0.0, 2 * HOUR])
        self.slow = SlowClock(self.slow.elapsed, self.slow.wall)
        self.slow.start(self.clock)

    def cycle(self) -> None:
        with self.engine.begin() as connection:
            collect.release(connection, self.slow_now())
        with self.engine.begin() as connection:
            self.counts["trashed"] += len(collect.trash(connection))
        with self.engine.begin() as connection:
            collect.forget(connection)
        with self.engine.begin() as connection:
            rows = queries_repair.trashed_places(connection, sorted(self.nodes), 1000)
        for row in rows:
            grant = Delete(row.number, Digest(row.digest), row.node, row.sequence, self.clock.true + GRANT_S)
            self.deletes.append(grant)
        self.chance.shuffle(self.deletes)

    def node_works(self) -> None:
        """A node uses a grant, perhaps not for the last time; its word may be lost on the way."""
        if not self.deletes:
            return
        grant = self.deletes[-1]
        if self.chance.random() < 0.8:
            self.deletes.pop()
        if self.clock.true > grant.until:
            return
        done = self.nodes[grant.node].delete(grant.digest, grant.sequence, self.clock.true)
        self.counts["deleted" if done else "refused"] += 1
        if done and self.chance.random() < 0.9:
            with self.engine.begin() as connection:
                _unplace(connection, grant.pack, grant.node, grant.sequence)

    # --- devices ---

    def send(self, digest: Digest) -> Receipts:
        chosen = self.chance.sample(sorted(self.nodes), COPIES)
        return Receipts(self.clock.now(), {number: self.nodes[number].put(digest) for number in chosen})

    def some_packs(self) -> list[Digest]:
        return sorted(self.chance.sample(self.packs, self.chance.randint(1, 3)))

    def ref(self, tag: bytes, packs: list[Digest], kind: RefKind) -> Ref:
        self.made += 1
        present = self.refs.get(tag)
        etag = Digest.of(b"ref %d" % self.made)
        version, previous = (1, None) if present is None else (present.version + 1, present.etag)
        return Ref(tag, tag, kind, 0, version, previous, etag, b"record " + etag, keep_of(packs))

    def commit(
        self, tag: bytes, packs: list[Digest], receipts: dict[Digest, Receipts], kind: RefKind = RefKind.FILE
    ) -> list[Digest]:
        """The packs that must be sent again; none when it stands."""
        ref = self.ref(tag, packs, kind)
        outcome = self.ask(
            Change(
                self.vault, None, packs=self.counted(receipts), known=[one for one in packs if one not in receipts],
                keeps={ref.keep: tuple(packs)}, groups=[[ref]],
            )
        )  # fmt: skip
        [[result]] = outcome
        if result.state == "committed":
            self.refs[tag] = ref
            self.kept[ref.etag] = tuple(packs)
            if kind is RefKind.FILE:
                self.versions[tag] = [*self.versions[tag][-19:], ref]
            self.known.update(packs)
            return []
        assert result.state == "packs-gone", result
        assert result.packs, result
        self.known.difference_update(result.packs)
        return list(result.packs)

    def finish(self, tag: bytes, packs: list[Digest], receipts: dict[Digest, Receipts], kind: RefKind) -> list[Digest]:
        """As the client does: what is gone is sent once more, and then it must stand; what was gone."""
        gone = self.commit(tag, packs, receipts, kind)
        if gone:
            self.counts["gone"] += 1
            again = {digest: self.send(digest) for digest in packs}
            assert not self.commit(tag, packs, again, kind)
        return gone

    def put(self) -> None:
        packs = self.some_packs()
        fresh = {digest: self.send(digest) for digest in packs if digest not in self.known}
        self.finish(self.chance.choice(self.tags), packs, fresh, RefKind.FILE)
        self.counts["put"] += 1

    def delete(self) -> None:
        tag = self.chance.choice(self.tags)
        if tag in self.refs and self.refs[tag].kind == RefKind.FILE:
            carrier = self.some_packs()[:1]
            self.finish(tag, carrier, {digest: self.send(digest) for digest in carrier}, RefKind.TOMBSTONE)
            self.counts["delete"] += 1

    def restore(self) -> None:
        """An old version by what a device remembers of the log, which may be long over."""
        tag = self.chance.choice(self.tags)
        if not self.versions[tag]:
            return
        old = self.chance.choice(self.versions[tag])
        gone = self.commit(tag, list(self.kept[old.etag]), {})
        self.counts["not_restored" if gone else "restored"] += 1

    def begin_upload(self) -> None:
        new = [digest for digest in self.packs if digest not in self.known]
        packs = sorted({*self.some_packs()[:1], *self.chance.sample(new, min(2, len(new)))})
        receipts = {digest: self.send(digest) for digest in packs if digest not in self.known}
        registered = bool(receipts) and self.chance.random() < 0.6
        if registered:
            self.ask(Change(self.vault, None, packs=self.counted(receipts), copies=COPIES, lease=True))
        pause = self.chance.choice([HOUR, 16 * HOUR, 22 * HOUR, 25 * HOUR, 25 * HOUR, 26 * HOUR, 8 * DAY])
        unheard = self.chance.random() < 0.5  # the answer was lost, or it never registered: receipts come again
        tag = self.chance.choice(self.tags)
        leased, resume = registered and pause == HOUR, self.clock.true + pause
        self.uploads.append(Upload(tag, packs, receipts, registered, resume, unheard, leased))

    def resume_uploads(self) -> None:
        for upload in [upload for upload in self.uploads if upload.resume <= self.clock.true]:
            self.uploads.remove(upload)
            receipts = upload.receipts if upload.sends_receipts or not upload.registered else {}
            gone = self.finish(upload.tag, upload.packs, receipts, RefKind.FILE)
            assert not (upload.leased and upload.receipts.keys() & gone), "a lease was not kept"
            self.counts["resumed"] += 1

    # --- what must hold ---

    def check(self) -> None:
        with self.engine.begin() as connection:
            history = connection.execute(select(tables.ref_history.c.etag, tables.ref_history.c.until)).all()
            states = {Digest(row.digest): row for row in queries_packs.packs_by_digest(connection, self.packs)}
            places = queries_packs.places(connection, [row.number for row in states.values()])
            present = {row.tag: row for row in queries_refs.refs_by_tag(connection, self.vault, self.tags)}
            shrunk = {row.tag: row for row in queries_refs.shrunk(connection, self.vault, self.tags)}
        wanted = {ref.etag for tag, ref in self.refs.items() if tag in present} | {row.etag for row in history}
        for tag, ref in self.refs.items():
            row = present.get(tag) or shrunk[tag]
            assert (row.version, row.etag) == (ref.version, ref.etag), "a version was forgotten"
            assert tag in present or ref.kind == RefKind.TOMBSTONE
        for etag in wanted:
            for digest in self.kept[etag]:
                row = states[digest]
                assert PackState(row.state) is PackState.LIVE, f"{digest} of an acknowledged name is {row.state}"
                held = [number for number in places.get(row.number, {}) if digest in self.nodes[number].copies]
                assert len(held) >= COPIES, f"{digest} of an acknowledged name is on {len(held)} nodes"

    def run(self, events: int) -> None:
        for number in range(events):
            self.clock.true += self.chance.expovariate(1 / (60.0 if self.deletes else HOUR))
            kind = self.chance.random()
            if kind < 0.30:
                self.put()
            elif kind < 0.42:
                self.delete()
            elif kind < 0.50:
                self.restore()
            elif kind < 0.60:
                self.begin_upload()
            elif kind < 0.94:
                self.node_works()
            elif kind < 0.98:
                self.restart()
            elif kind < 0.985:
                self.clock.true += self.chance.choice([HOUR, 6 * HOUR, DAY])
            else:
                for node in self.nodes.values():
                    self.counts["purged"] += len(node.trash)
                    node.purge(self.clock.true + self.chance.choice([-2 * HOUR, 0, 2 * HOUR]))
                    self.counts["purged"] -= len(node.trash)
            self.resume_uploads()
            if number % EVENTS_PER_CYCLE == EVENTS_PER_CYCLE - 1:
                self.cycle()
                self.check()
        self.check()


def keep_of(packs: list[Digest]) -> Digest:
    return Digest.of(b"".join(packs))
