"""The life of packs and refs against a naive twin: two dictionaries and plain loops. A real database below."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import Connection, Engine, select

from holdfast.blob import Digest
from holdfast.codec.refs import RefKind
from holdfast.coordinator import collect
from holdfast.coordinator.commit import Change, NewPack, Ref, Terms
from holdfast.coordinator.transaction import run_batch
from holdfast.metadata import queries_members, queries_packs, queries_refs, tables
from holdfast.metadata.dialects import sqlite_engine
from holdfast.metadata.tables import PackState

NODES = 3
LEASE, HISTORY, TOMBSTONES = 100.0, 300.0, 500.0
PACKS = [Digest.of(bytes([number])) for number in range(5)]
TAGS = [b"%032d" % number for number in range(3)]


def keep_of(packs: frozenset[int]) -> tuple[Digest, tuple[Digest, ...]]:
    digests = tuple(sorted(PACKS[number] for number in packs))
    return Digest.of(b"".join(digests)), digests


class Life(RuleBasedStateMachine):
    """survive 1 on three nodes. The twin knows refs, history with its end, leases, and derives the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.engine = self.made_engine()
        with self.engine.begin() as connection:
            tables.metadata.create_all(connection)  # quicker than the migrations, and the same: see tests/metadata
        with self.engine.begin() as connection:
            self.vault = queries_members.add_vault(connection, b"v" * 32, None)
            queries_members.create_network(
                connection,
                {
                    "coordinator": b"c" * 32, "name": "c", "urls": "", "epoch": 1, "commit_number": 0,
                    "heard_epoch": 0, "heard_commit": 0, "slow_elapsed": 0.0, "slow_wall": 0.0, "survive": 1,
                    "policy_version": 1, "revocations": 0,
                },
            )  # fmt: skip
            facts: dict[str, Any] = {
                "name": "n", "url": "", "reached_url": "", "domain": "d", "capacity": 1, "free": 1,
                "always_on": False, "read_only": False, "state": "up", "word": "", "sequence": 0, "blobs": 0,
                "root": b"r" * 16, "seen": 0.0,
            }  # fmt: skip
            self.nodes = [
                queries_members.add_node(connection, {**facts, "id": bytes([n]) * 32, "store": bytes([n]) * 16})
                for n in range(NODES)
            ]
        self.now = 1000.0
        self.commit_number = 0
        self.counter = 0
        self.refs: dict[bytes, tuple[int, bytes, frozenset[int]]] = {}  # tag -> version, etag, packs
        self.deleted: dict[bytes, float] = {}  # tag -> when its tombstone shrinks, of tombstones that are refs
        self.shrunk: dict[bytes, tuple[int, bytes]] = {}  # tag -> version, etag
        self.history: list[tuple[bytes, bytes, frozenset[int], float]] = []  # tag, etag, packs, until
        self.state: dict[int, str] = {}
        self.leases: dict[int, int] = {}

    def made_engine(self) -> Engine:
        return sqlite_engine(self.directory / "life.db")

    def teardown(self) -> None:
        self.engine.dispose()
        shutil.rmtree(self.directory)

    @initialize()
    def begin(self) -> None:
        pass

    def terms(self) -> Terms:
        numbers = frozenset(self.nodes)
        return Terms(
            slow=self.now, wall=0.0, lease_s=LEASE, history_s=HISTORY, survive=1, floor=2, live=numbers,
            counted=numbers, stores={number: bytes([number]) for number in self.nodes}, directory=2,
            tombstones_s=TOMBSTONES,
        )  # fmt: skip

    def run(self, *changes: Change) -> list[Any]:
        with self.engine.begin() as connection:
            batch = run_batch(connection, changes, self.terms(), self.commit_number)
        self.commit_number = batch.commit
        return list(batch.outcomes)

    def new(self, number: int) -> NewPack:
        self.counter += 1
        return NewPack(PACKS[number], 10, dict.fromkeys(self.nodes[:2], self.counter))

    def present(self, tag: bytes) -> tuple[int, bytes | None]:
        """(version, etag) that the next version must name as what it replaces."""
        found: Any = self.refs.get(tag, self.shrunk.get(tag, (0, None)))
        return found[0], found[1]

    def replace(self, tag: bytes, version: int, etag: bytes, packs: frozenset[int], *, deleted: bool = False) -> None:
        old = self.refs.get(tag)
        if old is not None:
            self.history.append((tag, old[1], old[2], self.now + HISTORY))
        self.refs[tag] = (version, etag, packs)
        self.shrunk.pop(tag, None)
        self.deleted.pop(tag, None)
        if deleted:
            self.deleted[tag] = self.now + TOMBSTONES

    def make_ref(
        self, tag: bytes, packs: frozenset[int], version: int, previous: bytes | None, kind: int = RefKind.FILE
    ) -> Ref:
        self.counter += 1
        etag = b"%032d" % self.counter
        return Ref(tag, tag, kind, 0, version, previous, etag, b"record " + etag, keep_of(packs)[0])

    # --- what may be asked ---

    @rule(packs=st.frozensets(st.integers(0, 4), min_size=1))
    def register(self, packs: frozenset[int]) -> None:
        [result] = self.run(Change(self.vault, None, packs=[self.new(one) for one in sorted(packs)], lease=True))
        assert result == []
        for one in packs:
            self.state[one] = "live" if self.state.get(one) == "live" else "leased"
            self.leases[one] = max(int(self.now + LEASE), self.leases.get(one, 0))

    @rule(
        tag=st.sampled_from(TAGS),
        packs=st.frozensets(st.integers(0, 4), min_size=1, max_size=3),
        fresh=st.frozensets(st.integers(0, 4)),
        stale=st.booleans(),
        send_list=st.booleans(),
        kind=st.sampled_from([RefKind.FILE, RefKind.TOMBSTONE]),
    )
    def commit(
        self, tag: bytes, packs: frozenset[int], fresh: frozenset[int], stale: bool, send_list: bool, kind: RefKind
    ) -> None:
        before, previous = self.present(tag)
        version = before + 1
        ref = self.make_ref(tag, packs, version + stale, previous, kind)
        digest, digests = keep_of(packs)
        known_list = any(packs == kept for _, _, kept in self.refs.values()) or any(
            packs == kept for _, _, kept, _ in self.history
        )
        [result] = self.run(
            Change(
                self.vault, None, packs=[self.new(one) for one in sorted(fresh)],
                keeps={digest: digests} if send_list else {}, groups=[[ref]],
            )
        )  # fmt: skip
        for one in fresh:
            self.state[one] = "live" if self.state.get(one) == "live" else "leased"
            self.leases[one] = max(int(self.now + LEASE), self.leases.get(one, 0))
        gone = [PACKS[one] for one in packs if self.state.get(one) not in ("leased", "live", "released")]
        found = result[0][0]
        if stale:
            assert found.state == "conflict"
            assert (found.version, found.etag) == (self.shrunk.get(tag) or (0, None))
            assert (found.record is not None) == (tag in self.refs)
            return
        if not (send_list or known_list):
            assert (found.state, found.packs) == ("packs-gone", [])
            return
        if gone:
            assert (found.state, found.packs) == ("packs-gone", sorted(gone))
            return
        assert found.state == "committed"
        self.replace(tag, version, ref.etag, packs, deleted=kind is RefKind.TOMBSTONE)
        for one in packs:
            self.state[one] = "live"
            self.leases.pop(one, None)

    @rule(tag=st.sampled_from(TAGS), packs=st.frozensets(st.integers(0, 4), min_size=1, max_size=2))
    def rivals_in_one_batch(self, tag: bytes, packs: frozenset[int]) -> None:
        before, previous = self.present(tag)
        version = before + 1
        digest, digests = keep_of(packs)
        new = [self.new(one) for one in sorted(packs)]
        refs = [self.make_ref(tag, packs, version, previous) for _ in range(2)]
        refs.append(self.make_ref(tag, packs, version + 1, refs[0].etag))
        refs.append(refs[0])
        results = self.run(
            *(Change(self.vault, None, packs=new, keeps={digest: digests}, groups=[[ref]]) for ref in refs)
        )
        assert [result[0][0].state for result in results] == ["committed", "conflict", "committed", "committed"]
        self.replace(tag, version, refs[0].etag, packs)
        self.replace(tag, version + 1, refs[2].etag, packs)
        for one in packs:
            # the change after the last new version renewed the lease: its receipts came with it
            self.state[one] = "live"
            self.leases[one] = int(self.now + LEASE)

    @rule(seconds=st.sampled_from([1.0, 40.0, 101.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def release(self) -> None:
        with self.engine.begin() as connection:
            collect.release(connection, self.now)
        let_go: set[int] = set()
        for entry in [entry for entry in self.history if entry[3] <= self.now]:
            self.history.remove(entry)
            let_go |= entry[2]
        for tag in [tag for tag, due in self.deleted.items() if due <= self.now]:
            del self.deleted[tag]
            version, etag, packs = self.refs.pop(tag)
            self.shrunk[tag] = (version, etag)
            let_go |= packs
        for one, until in list(self.leases.items()):
            if until < int(self.now):
                del self.leases[one]
                let_go.add(one)
        for one in let_go:
            if self.state[one] in ("leased", "live") and not self.is_held(one):
                self.state[one] = "released"

    @rule()
    def trash(self) -> None:
        with self.engine.begin() as connection:
            trashed = {PACKS.index(row.digest) for row in collect.trash(connection)}
        expected = {one for one, state in self.state.items() if state == "released" and not self.is_held(one)}
        assert trashed == expected
        for one in expected:
            self.state[one] = "trashed"

    @rule()
    def nodes_delete(self) -> None:
        trashed = [PACKS[one] for one, state in self.state.items() if state == "trashed"]
        with self.engine.begin() as connection:
            for row in queries_packs.packs_by_digest(connection, trashed):
                queries_packs.unplace(connection, [(row.number, node) for node in self.nodes])
            assert collect.forget(connection) == len(trashed)
        for digest in trashed:
            self.state[PACKS.index(digest)] = "gone"

    def is_held(self, one: int) -> bool:
        return (
            one in self.leases
            or any(one in packs for _, _, packs in self.refs.values())
            or any(one in packs for _, _, packs, _ in self.history)
        )

    # --- what must hold ---

    @invariant()
    def the_database_says_what_the_twin_says(self) -> None:
        with self.engine.begin() as connection:
            rows = queries_packs.packs_by_digest(connection, PACKS)
            found = {PACKS.index(row.digest): PackState(row.state).name.lower() for row in rows}
            leases = {PACKS.index(row.digest): row.lease_until for row in rows if row.lease_until is not None}
            refs = {row.tag: (row.version, row.etag) for row in queries_refs.refs_by_tag(connection, self.vault, TAGS)}
            shrunk = queries_refs.shrunk(connection, self.vault, TAGS)
            past = queries_refs.past_etags(connection, self.vault, TAGS)
            used = queries_members.bytes_used(connection, [self.vault])[self.vault]
            lists = self.lists(connection)
        assert found == self.state
        assert leases == self.leases
        assert refs == {tag: (version, etag) for tag, (version, etag, _) in self.refs.items()}
        assert {row.tag: (row.version, row.etag) for row in shrunk} == self.shrunk
        kept = Counter(tag for tag, _, _, _ in self.history)
        assert {tag: len(etags) for tag, etags in past.items()} == kept
        assert used == 10 * sum(state in ("leased", "live", "released") for state in self.state.values())
        named = {packs for _, _, packs in self.refs.values()} | {packs for _, _, packs, _ in self.history}
        assert lists == {keep_of(packs)[0] for packs in named}

    @invariant()
    def nothing_that_is_held_is_on_its_way_out(self) -> None:
        for one, state in self.state.items():
            if any(one in packs for _, _, packs in self.refs.values()):
                assert state == "live"

    def lists(self, connection: Connection) -> set[Digest]:
        return {Digest(row) for row in connection.execute(select(tables.keep_lists.c.digest)).scalars()}


Life.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
