"""Writes what only this coordinator knows to nodes, so that its database can be made again (docs/formats.md, Reflog).

Once a minute, sooner after many commits or a change of members, what is new goes out as one blob, onto as many distinct
disks as every pack. A blob counts once so many receipts have come; until then what is in it is written again. A chain
of blobs begins anew with a full copy each week; when the new chain has caught up, nodes are told to trash the old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast import logs
from holdfast.auth.documents import canonical, plain, sign
from holdfast.auth.grants import Grant
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.codec import reflog as codec
from holdfast.codec.refs import keep_list
from holdfast.coordinator.placement import Sites, choose
from holdfast.coordinator.receipts import check_receipts
from holdfast.coordinator.registry import Node
from holdfast.coordinator.state import State
from holdfast.errors import Corrupt, HoldfastError, NotFound, Unavailable
from holdfast.metadata import queries_members, queries_reflog
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.worker import Progress

ROWS_MAX = 2000
"""Records in one blob, about: these are 1 MiB or so."""

ENDED_MAX = 100_000
"""Names deleted long ago that a chain still tells of."""

COMMITS_MAX = 500
"""After so many commits the next blob does not wait for its minute."""

LOOK_S = 600.0
"""How often copies are counted and made again."""

GRANT_LIFE_S = 600

_log = logs.get_logger(__name__)


@dataclass(slots=True)
class Written:
    """A blob that is durable: its row and who holds it (node number -> write sequence)."""

    number: int
    chain: int
    digest: Digest
    size: int
    epoch: int
    last: int
    facts: bytes
    made: float
    places: dict[int, int] = field(default_factory=dict)


def is_durable(places: Mapping[int, int], stores: Mapping[int, bytes], survive: int) -> bool:
    """Do receipts of ``places`` (node numbers) come from enough distinct disks?"""
    return len({stores[node] for node in places}) >= survive + 1


class Reflog:
    """``unit`` is a worker's unit. ``lag`` and ``commits_behind`` say how far the nodes' copy is behind."""

    def __init__(self, state: State) -> None:
        self.written: list[Written] | None = None
        """Those that are needed, ascending; None until they were read."""
        self._state = state
        self._even = state.clock.monotonic()
        """When nodes knew everything, or this coordinator was started: all that was committed until then, they know."""
        self._waits = False
        """Something was found that they do not know."""
        self._fresh_chain = False
        self._looked: float | None = None

    @property
    def last(self) -> int:
        """The commit number up to which nodes know everything."""
        return self.written[-1].last if self.written else 0

    async def unit(self) -> Progress:
        """Writes one blob if there is something to write; looks after those there are."""
        state = self._state
        if state.position.stale:
            return Progress.IDLE  # what an old coordinator knows is not the network's state
        if self.written is None:
            self.written = await state.database.run(_load)
        began, commit = state.clock.monotonic(), state.position.commit
        new = await state.database.run(self._gather)
        self._waits = new is not None
        if new is None:
            self._even = began
            await self._look_after()
            return Progress.IDLE
        if not await self._write(new):
            return Progress.IDLE
        if new.last >= commit:
            self._even, self._waits = began, False
        return Progress.BUSY

    def is_due(self) -> bool:
        """Have so many commits come that the next blob should not wait?"""
        return self.written is not None and self.commits_behind() >= COMMITS_MAX

    def commits_behind(self) -> int:
        """How many commits no blob that reached its copies tells of."""
        return max(self._state.position.commit - self.last, 0)

    def lag(self) -> float:
        """Seconds: what was committed longer ago than this, nodes know. 0 if they know everything; at most the time
        since this coordinator was started."""
        if not self._waits and not self.commits_behind():
            return 0.0
        return self._state.clock.monotonic() - self._even

    # --- what is new ---

    def _gather(self, connection: Connection) -> codec.Reflog | None:
        """The next blob, None if nodes know everything. Runs in the database's thread."""
        assert self.written is not None, "unit() has loaded it"
        state = self._state
        facts = facts_of(connection)
        summary = _summary(facts)
        before = self.written[-1] if self.written else None
        if (
            before is None
            or self._fresh_chain
            or before.epoch != state.position.epoch
            or state.slow_now() - next(one.made for one in self.written if one.number == before.chain)
            >= state.settings.reflog_chain
        ):
            before = None
        after = 0 if before is None else before.last
        rows, last = queries_reflog.changed_refs(connection, after, ROWS_MAX)
        if before is not None and last == after and before.facts == summary:
            return None
        ended = queries_reflog.ended_names(connection, ENDED_MAX) if before is None else []
        keeps = queries_reflog.keep_list_packs(connection, (row.keep for row in rows))
        meta = queries_members.network_facts(connection)
        assert meta is not None, "a running coordinator has its row"
        return codec.Reflog(
            coordinator=state.identity.id,
            epoch=state.position.epoch,
            number=meta.reflog_number + 1,
            first=after,
            last=last,
            previous=None if before is None else before.digest,
            facts=facts if before is None or before.facts != summary else None,
            keeps=tuple(sorted({keep_list(map(Digest, digests)) for digests in keeps.values()})),
            refs=tuple(codec.LoggedRef(row.record, int(row.committed * 1000)) for row in rows),
            ended=tuple(codec.EndedName(Id(row.vault), row.tag, row.version, Digest(row.etag)) for row in ended),
        )

    async def _write(self, new: codec.Reflog) -> bool:
        """True once the blob is durable and on record."""
        state = self._state
        data, digest, facts = await state.pool.run(self._encoded, new)
        places = await self._spread(digest, data, {})
        if not is_durable(places, state.registry.stores(), state.policy.survive):
            _log.info("reflog_not_durable", receipts=len(places), needed=state.policy.survive + 1)
            return False
        assert self.written is not None, "unit() has loaded it"
        number = new.number
        before = self.written[-1] if self.written else None
        made = Written(
            number=number,
            chain=number if new.previous is None or before is None else before.chain,
            digest=digest,
            size=len(data),
            epoch=new.epoch,
            last=new.last,
            facts=_summary(new.facts) if new.facts is not None else before.facts if before is not None else facts,
            made=state.slow_now(),
            places=places,
        )
        await state.database.run(_record, made)
        self.written.append(made)
        self._fresh_chain = False
        _log.info("reflog_written", number=number, last=made.last, refs=len(new.refs), size=len(data))
        return True

    def _encoded(self, new: codec.Reflog) -> tuple[bytes, Digest, bytes]:
        data = codec.encode(new, self._state.identity)
        return data, Digest.of(data), b"" if new.facts is None else _summary(new.facts)

    # --- nodes ---

    async def _spread(self, digest: Digest, data: bytes, have: Mapping[int, int]) -> dict[int, int]:
        """Puts the blob on nodes until enough disks have it: ``have``, and the new ones with their sequences."""
        state = self._state
        wanted = state.policy.survive + 1
        places = dict(have)
        stores = state.registry.stores()
        taken = {stores[node] for node in places}
        sites = [site for site in state.registry.sites() if site.store not in taken]
        waiting = choose(Sites(sites), wanted, len(sites), state.randomness, lambda site: site.free >= len(data))
        if len(waiting) + len(taken) < wanted:
            return places
        while waiting and not is_durable(places, stores, wanted - 1):
            missing = wanted - len({stores[node] for node in places})
            some, waiting = waiting[:missing], waiting[missing:]
            for found in await asyncio.gather(*(self._put(site.number, digest, data) for site in some)):
                places.update(found)
        return places

    async def _put(self, number: int, digest: Digest, data: bytes) -> dict[int, int]:
        state = self._state
        node = state.registry.number(number)
        now = state.clock.now()
        grant = state.grants.grant(
            node, state.identity.id, state.identity.id, len(data), now, int(now) + GRANT_LIFE_S, state.position.current
        )
        try:
            receipt = await state.http.put_blob(_target(node), digest, len(data), data, grant=grant)
            return check_receipts(digest, len(data), [receipt], state.registry.get, now - state.settings.lease)
        except HoldfastError as error:
            _log.info("reflog_not_put", node=node.name, reason=error.detail)
            return {}

    async def _look_after(self) -> None:
        """Everything is written: old chains go, and blobs with too few copies get more."""
        state = self._state
        now = state.clock.monotonic()
        if not self.written or (self._looked is not None and now - self._looked < LOOK_S):
            return
        self._looked = now
        chain = self.written[-1].chain
        if self.written[0].number < chain:
            await state.database.run(queries_reflog.forget_reflogs, chain)
            self.written = [one for one in self.written if one.number >= chain]
        live = [state.registry.number(number) for number in sorted(state.registry.live())]
        await asyncio.gather(*(self._count(node) for node in live))
        counted = state.registry.counted() - {node.number for node in state.registry.all() if node.word == "draining"}
        for one in self.written:
            there = {node: sequence for node, sequence in one.places.items() if node in counted}
            if not is_durable(there, state.registry.stores(), state.policy.survive):
                await self._mend(one, there)

    async def _count(self, node: Node) -> None:
        """Compares what the node holds of the reflog with what is on record; what is needed no more goes to trash."""
        state = self._state
        assert self.written is not None, "unit() has loaded it"
        try:
            held = await held_reflogs(state.http, _target(node))
        except HoldfastError as error:
            _log.info("reflog_not_counted", node=node.name, reason=error.detail)
            return
        lost = [one for one in self.written if node.number in one.places and one.digest not in held]
        if lost:
            await state.database.run(queries_reflog.unplace_reflogs, [one.number for one in lost], node.number)
            for one in lost:
                one.places.pop(node.number, None)
        needed = {one.digest for one in self.written}
        for entry in held.values():
            if entry.digest not in needed and state.may_let_go():
                await self._drop(node, entry)

    async def _drop(self, node: Node, entry: m.InventoryEntry) -> None:
        state = self._state
        grant = Grant(
            kind="delete", node=node.id, store=node.store, vault=state.identity.id, subject=state.identity.id,
            digests=(entry.digest,), sequence=entry.sequence, epoch=state.position.epoch,
            commit=state.position.commit, expires=int(state.clock.now()) + GRANT_LIFE_S,
        )  # fmt: skip
        try:
            await state.http.call(
                _target(node), routes.BLOB_DELETE, path={"digest": str(entry.digest)}, grant=sign(grant, state.identity)
            )
        except HoldfastError as error:
            _log.info("reflog_not_dropped", node=node.name, reason=error.detail)

    async def _mend(self, one: Written, there: Mapping[int, int]) -> None:
        """Copies a blob that lies on too few disks; a chain of which a blob is gone is begun anew."""
        state = self._state
        data: bytes | None = None
        for number in sorted(there):
            try:
                data = await read_reflog(state.http, _target(state.registry.number(number)), one.digest, one.size)
                break
            except NotFound:
                continue
            except HoldfastError as error:
                _log.info("reflog_not_read", number=one.number, reason=error.detail)
        if data is None:
            live = state.registry.live()
            self._fresh_chain = self._fresh_chain or not any(node in live for node in there)
            return
        places = await self._spread(one.digest, data, there)
        await state.database.run(queries_reflog.place_reflog, one.number, places)
        one.places.update(places)


async def held_reflogs(http: HttpClient, target: Target) -> dict[Digest, m.InventoryEntry]:
    """The reflog blobs that a node says it holds."""
    held: dict[Digest, m.InventoryEntry] = {}
    after = 0
    while True:
        page = await http.call(target, routes.INVENTORY, m.InventoryQuery(after=after, reflog=True))
        held.update((entry.digest, entry) for entry in page.entries if entry.here)
        if len(page.entries) < m.PAGE_MAX:
            return held
        if page.entries[-1].sequence <= after:
            raise Unavailable("an inventory does not ascend")
        after = page.entries[-1].sequence


async def read_reflog(http: HttpClient, target: Target, digest: Digest, size: int) -> bytes:
    """The blob, compared with its digest; NotFound, Unavailable, Corrupt."""
    if size > codec.BLOB_BYTES_MAX:
        raise NotFound("no reflog is so long")
    data = bytes(await http.read_blob(target, digest, None, size_max=size))
    if Digest.of(data) != digest:
        raise Corrupt(f"{target.url} sends other bytes than {digest}")
    return data


def facts_of(connection: Connection) -> codec.Facts:
    """The network and its members as they are on record."""
    meta = queries_members.network_facts(connection)
    assert meta is not None, "a running coordinator has its row"
    return codec.Facts(
        name=meta.name,
        urls=tuple(meta.urls.split()),
        survive=meta.survive,
        policy_version=meta.policy_version,
        revocations=meta.revocations,
        nodes=tuple(
            codec.NodeFacts(Id(row.id), row.name, row.url, row.store, row.domain, row.capacity, row.always_on, row.word)
            for row in queries_members.all_nodes(connection)
        ),
        vaults=tuple(codec.VaultFacts(Id(row.id), row.quota) for row in _vaults(connection)),
        devices=tuple(
            codec.DeviceFacts(row.countersigned, row.operator, row.revoked)
            for row in queries_members.all_devices(connection)
        ),
    )


def _vaults(connection: Connection) -> Sequence[Any]:
    return sorted(queries_members.all_vaults(connection), key=lambda row: int(row.number))


def _summary(facts: codec.Facts) -> bytes:
    return Digest.of(canonical(msgspec.to_builtins(facts, builtin_types=(bytes,), enc_hook=plain)))


def _load(connection: Connection) -> list[Written]:
    places = queries_reflog.reflog_copies(connection)
    return [
        Written(
            number=row.number,
            chain=row.chain,
            digest=Digest(row.digest),
            size=row.size,
            epoch=row.epoch,
            last=row.last,
            facts=row.facts,
            made=row.made,
            places=places.get(row.number, {}),
        )
        for row in queries_reflog.all_reflogs(connection)
    ]


def _record(connection: Connection, made: Written) -> None:
    row = {
        "number": made.number, "chain": made.chain, "digest": made.digest, "size": made.size, "epoch": made.epoch,
        "last": made.last, "facts": made.facts, "made": made.made,
    }  # fmt: skip
    queries_reflog.add_reflog(connection, row, made.places)


def _target(node: Node) -> Target:
    return Target(node.id, node.reached_url)
