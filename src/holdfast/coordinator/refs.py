"""Reading: refs, their history, and where the packs lie that hold what they name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection

from holdfast.auth.certificates import READ
from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.codec.refs import RefKind, keep_list
from holdfast.coordinator.commit import Pack
from holdfast.coordinator.ref_questions import RefQuestions
from holdfast.coordinator.state import State
from holdfast.coordinator.transaction import load_packs
from holdfast.errors import NotFound
from holdfast.metadata import queries_packs, queries_refs
from holdfast.wire import messages as m
from holdfast.wire.serve import Call

PLACED_PACKS_MAX = 8
"""A page of refs brings the places of keep lists up to this long: for larger files the ref itself is asked."""

_FIRST = b""


class _Placed(NamedTuple):
    """What is told of a pack. ``places``: numbers of nodes."""

    digest: Digest
    size: int
    places: list[int]


class Refs:
    """Handlers. Reads go on while this coordinator may not write."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._questions = RefQuestions(state.database)

    async def page(self, call: Call, request: m.RefQuery) -> m.RefPage:
        """Entries of one directory, or of the vault, without tombstones; or of the trash."""
        vault = self._state.access.require(call.caller, Id.parse(call.path["vault"]), READ)
        parent = None if request.parent is None else Digest.parse(request.parent)
        after = _FIRST if request.after is None else Digest.parse(request.after)

        if request.trash:
            return await self._trash(vault.number, parent, after, request.limit)

        def read(connection: Connection) -> tuple[list[Any], dict[int, Pack]]:
            rows = queries_refs.ref_page(connection, vault.number, parent, after, request.limit + 1, RefKind.TOMBSTONE)
            kept = queries_packs.packs_kept(connection, {row.keep for row in rows[: request.limit]})
            numbers = {number for some in kept.values() if len(some) <= PLACED_PACKS_MAX for number in some}
            return list(rows), load_packs(connection, queries_packs.packs_by_number(connection, numbers))

        rows, packs = await self._state.database.run(read)
        more = len(rows) > request.limit
        rows = rows[: request.limit]
        places, nodes = self._placed(packs.values())
        return m.RefPage(
            records=[row.record for row in rows],
            packs=places,
            nodes=nodes,
            after=rows[-1].tag.hex() if more else None,
            unread=vault.number in self._state.unread,
        )

    async def _trash(self, vault: int, parent: bytes | None, after: bytes, limit: int) -> m.RefPage:
        rows = await self._state.database.run(
            queries_refs.trash_page, vault, parent, after, limit + 1, RefKind.TOMBSTONE
        )
        slow, some = self._state.slow_now(), rows[:limit]
        return m.RefPage(
            records=[row.record for row in some],
            kept=[
                m.RefVersion(record=row.kept, committed=row.committed, until=max(row.until - slow, 0.0)) for row in some
            ],
            after=some[-1].tag.hex() if len(rows) > limit else None,
        )

    async def ref(self, call: Call, request: None) -> m.RefAnswer:
        """One ref, also a tombstone, with all that its reader needs to find its packs; NotFound."""
        vault = self._state.access.require(call.caller, Id.parse(call.path["vault"]), READ)
        found = await self._questions.find(vault.number, Digest.parse(call.path["tag"]))
        unread = vault.number in self._state.unread
        if found is None:
            raise NotFound("no such name", **({"unread": True} if unread else {}))
        row = found.row
        if found.packs is None:
            return m.RefAnswer(record=b"", keep=b"", version=row.version, etag=Digest(row.etag))
        packs = _packs_of(found.packs)
        places, nodes = self._placed(packs)
        keep = keep_list(pack.digest for pack in packs)
        return m.RefAnswer(record=row.record, keep=keep, packs=places, nodes=nodes, unread=unread)

    async def find(self, call: Call, request: m.RefsQuestion) -> m.RefsAnswer:
        """Many refs at once; as ``ref``, but a name that is not there is no error."""
        vault = self._state.access.require(call.caller, Id.parse(call.path["vault"]), READ)
        answers: list[m.FoundRef] = []
        placed: dict[Digest, _Placed] = {}
        for found in await self._questions.find_all(vault.number, request.tags):
            if found is None:
                answers.append(m.FoundRef())
            elif found.packs is None:
                answers.append(m.FoundRef(version=found.row.version, etag=Digest(found.row.etag)))
            elif len(packs := _packs_of(found.packs)) > PLACED_PACKS_MAX:
                answers.append(m.FoundRef(large=True))
            else:
                placed.update((pack.digest, pack) for pack in packs)
                answers.append(m.FoundRef(record=found.row.record, keep=keep_list(pack.digest for pack in packs)))
        places, nodes = self._placed(placed.values())
        return m.RefsAnswer(refs=answers, packs=places, nodes=nodes, unread=vault.number in self._state.unread)

    async def history(self, call: Call, request: None) -> m.RefHistory:
        """The present version and the kept ones, newest first; NotFound if there never was one."""
        vault = self._state.access.require(call.caller, Id.parse(call.path["vault"]), READ)
        tag = Digest.parse(call.path["tag"])

        def read(connection: Connection) -> tuple[list[Any], list[Any]]:
            present = queries_refs.refs_by_tag(connection, vault.number, [tag])
            return present, list(queries_refs.history(connection, vault.number, tag))

        present, kept = await self._state.database.run(read)
        if not present:
            raise NotFound("no such name")
        slow = self._state.slow_now()
        versions = [m.RefVersion(record=present[0].record, committed=present[0].committed)]
        versions += [
            m.RefVersion(record=row.record, committed=row.committed, until=max(row.until - slow, 0.0)) for row in kept
        ]
        return m.RefHistory(versions=versions)

    async def vault_packs(self, call: Call, request: m.VaultPacksQuery) -> m.VaultPacks:
        """The vault's packs that are leased, live or released, ascending by digest."""
        vault = self._state.access.require(call.caller, Id.parse(call.path["vault"]), READ)
        after = _FIRST if request.after is None else Digest.parse(request.after)

        def read(connection: Connection) -> list[Pack]:
            rows = queries_packs.vault_packs(connection, vault.number, after, request.limit + 1, unread=request.unread)
            return list(load_packs(connection, rows).values())

        packs = await self._state.database.run(read)
        more = len(packs) > request.limit
        packs = packs[: request.limit]
        places, nodes = self._placed(packs)
        return m.VaultPacks(packs=places, nodes=nodes, after=str(packs[-1].digest) if more else None)

    def _placed(self, packs: Iterable[Pack | _Placed]) -> tuple[list[m.PackPlaces], list[m.NodeAddress]]:
        """Places with the nodes they number: live ones first, by turns so that the load is spread."""
        registry = self._state.registry
        live: dict[int, bool] = {}  # asked of those that are named: there may be a thousand
        nodes: dict[int, int] = {}
        places: list[m.PackPlaces] = []
        for pack in packs:
            holders = sorted(pack.places)
            if holders:
                start = int.from_bytes(pack.digest[DIGEST_BYTES - 2 :], "big") % len(holders)
                holders = holders[start:] + holders[:start]
                for number in holders:
                    if number not in live:
                        live[number] = registry.is_live(registry.number(number))
                holders.sort(key=live.__getitem__, reverse=True)
            numbers = [nodes.setdefault(number, len(nodes)) for number in holders]
            places.append(m.PackPlaces(digest=pack.digest, size=pack.size, nodes=numbers))
        addresses = [registry.number(number) for number in nodes]
        return places, [
            m.NodeAddress(id=node.id, name=node.name, url=node.url, up=live[node.number]) for node in addresses
        ]


def _packs_of(rows: Iterable[Any]) -> list[_Placed]:
    """The packs of a name's keep list, of ``ref_questions.Found``."""
    packs: dict[int, _Placed] = {}
    for row in rows:
        pack = packs.setdefault(row.number, _Placed(Digest(row.digest), row.size, []))
        if row.node is not None:
            pack.places.append(row.node)
    return list(packs.values())
