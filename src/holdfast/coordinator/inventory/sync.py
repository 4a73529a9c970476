"""Keeps placements true: reads what nodes write down of what they hold, and compares sums when these differ.

Each heartbeat brings a node's last write sequence and root. A higher sequence means new rows, which are read onwards;
a sequence that went back, or another root, means that both sides are compared prefix by prefix (docs/design.md, 6,
Heartbeat). Copies that are gone leave the record, copies of known packs come onto it again, and what is on no record is
a stranger: packs of a known vault among them are adopted as leased after a while, because the upload they belong to may
still be under way.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.coordinator.inventory.belief import Belief, Reading, Stranger
from holdfast.coordinator.inventory.compare import Believed, Comparison
from holdfast.coordinator.registry import Node
from holdfast.coordinator.state import State
from holdfast.coordinator.transaction import Moves
from holdfast.errors import HoldfastError, Unavailable
from holdfast.metadata import queries_members, queries_packs, queries_repair
from holdfast.metadata.tables import NEVER_READ, PackState
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import Target

READERS_MAX = 8
LATE_BEATS = 2
ADOPTED_MAX = 500
"""Packs adopted in one transaction."""

BELIEVED_MAX = 10_000
"""Placements read in one transaction."""

_log = logs.get_logger(__name__)


@dataclass(slots=True)
class Noted:
    """What a page of an inventory came to."""

    moves: Moves = field(default_factory=Moves)
    strangers: list[m.InventoryEntry] = field(default_factory=list)
    lost: int = 0


def note(
    connection: Connection,
    node: int,
    entries: Sequence[m.InventoryEntry],
    vaults: Mapping[Id, int],
    *,
    believed: Mapping[Digest, int] | None = None,
    read_up_to: int | None = None,
) -> Noted:
    """Brings the placements of ``node`` up to ``entries``, in one transaction.

    ``believed``: copies that the node does not have (any more), each with the sequence it was believed to have; those
    that were put again since are left alone.
    """
    noted = Noted()
    wanted = {entry.digest for entry in entries} | (believed or {}).keys()
    rows = {Digest(row.digest): row for row in queries_packs.packs_by_digest(connection, wanted)}
    placed = queries_repair.sequences(connection, node, (row.number for row in rows.values()))
    places: list[dict[str, int]] = []
    gone: list[tuple[int, int]] = []
    again: list[int] = []
    sizes: dict[int, int] = {}  # of packs that a recovery knew only by name
    for entry in entries:
        row = rows.get(entry.digest)
        ours = row is not None and entry.vault is not None and vaults.get(entry.vault) == row.vault
        if row is None or not ours:
            if entry.here:
                noted.strangers.append(entry)
            if row is None:
                continue
        sequence = placed.get(row.number)
        if entry.here and ours:
            if sequence is None or sequence < entry.sequence or believed is not None:
                places.append({"pack": row.number, "node": node, "sequence": entry.sequence})
                noted.moves.placed.append((node, entry.digest, entry.sequence, sequence is None))
                placed[row.number] = entry.sequence
            if row.state == PackState.GONE:
                again.append(row.number)
            if row.size == 0:
                sizes[row.number] = entry.size
        elif sequence is not None and sequence < entry.sequence:
            _lose(noted, gone, node, row)
    for digest, sequence in (believed or {}).items():
        row = rows.get(digest)
        if row is not None and placed.get(row.number) == sequence:
            _lose(noted, gone, node, row)
    queries_packs.unplace(connection, gone)
    queries_packs.place(connection, places)
    queries_repair.trash_again(connection, again)
    queries_packs.set_sizes(connection, sizes)
    if read_up_to is not None:
        queries_repair.read_up_to(connection, node, read_up_to)
    return noted


def _lose(noted: Noted, gone: list[tuple[int, int]], node: int, row: object) -> None:
    number, digest, state = row.number, row.digest, row.state  # type: ignore[attr-defined]
    gone.append((number, node))
    noted.moves.gone.append((node, Digest(digest)))
    if state in (PackState.LEASED, PackState.LIVE):
        noted.moves.short.add(number)
        noted.lost += 1


def adopt(
    connection: Connection,
    found: Mapping[Digest, tuple[int, int, Mapping[int, int]]],
    target: int,
    lease_until: int,
    late: Collection[Digest] = (),
) -> Moves:
    """Takes strangers as leased packs: digest -> (vault, size, node -> sequence). Those known by now are left alone.

    Of those in ``late`` a device must read what refs they bring before they may go.
    """
    moves = Moves()
    known = {Digest(row.digest) for row in queries_packs.packs_by_digest(connection, found)}
    fresh = {digest: facts for digest, facts in found.items() if digest not in known}
    numbers = queries_packs.add_packs(
        connection,
        [
            {"digest": digest, "vault": vault, "size": size, "state": PackState.LEASED, "target": target,
             "lease_until": lease_until, "adopted": int(digest in late)}
            for digest, (vault, size, _) in fresh.items()
        ],
    )  # fmt: skip
    places: list[dict[str, int]] = []
    more: defaultdict[int, int] = defaultdict(int)
    for digest, (vault, size, on) in fresh.items():
        more[vault] += size
        for node, sequence in on.items():
            places.append({"pack": numbers[digest], "node": node, "sequence": sequence})
            moves.placed.append((node, digest, sequence, True))
        moves.short.add(numbers[digest])
    queries_packs.place(connection, places)
    used = queries_members.bytes_used(connection, list(more))
    queries_members.change_bytes_used(connection, {vault: used[vault] + size for vault, size in more.items()})
    return moves


class InventorySync:
    """Reads inventories, a few nodes at a time. ``changed`` is called when copies were lost or found."""

    def __init__(self, state: State, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._readers = asyncio.Semaphore(READERS_MAX)
        self._one_load = asyncio.Lock()
        self._late: set[int] = set()  # nodes that are read for the first time, in this network or since a recovery

    def heard(self, node: Node) -> None:
        """After each heartbeat, in constant time: begins to read if something is new."""
        if not node.sequence and node.read_sequence == NEVER_READ:
            node.read_sequence = 0  # it begins empty, so that what comes was put in this network
        if node.number in self._reading or not self._state.registry.answers(node):
            return
        belief = self._state.beliefs.of_node.get(node.number)
        if (
            belief is None
            or not node.agreed
            or node.sequence != node.read_sequence
            or (belief.highest <= node.sequence and belief.roots.root != node.root)
        ):
            self.read(node)

    def read(self, node: Node) -> asyncio.Task[None]:
        """Reads and compares now; the task ends when that is done, well or not."""
        task = self._reading.get(node.number)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._try(node), name=f"inventory of {node.name}")
            self._reading[node.number] = task
            task.add_done_callback(lambda _: self._reading.pop(node.number, None))
        return task

    async def stop(self) -> None:
        """Ends what is being read."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def adopt(self) -> bool:
        """Adopts packs that have been strangers for long enough; True if there are more."""
        state = self._state
        now = state.clock.monotonic()
        old = now - state.settings.adopt_after
        soon = now - LATE_BEATS * state.settings.heartbeat_interval  # by then the other nodes have said what they hold
        found: dict[Digest, tuple[int, int, dict[int, int]]] = {}
        late: set[Digest] = set()
        for number, belief in state.beliefs.of_node.items():
            for digest, one in belief.strangers.items():
                vault = None if one.vault is None else state.access.vault(one.vault)
                if vault is not None and (
                    digest in found or (one.since <= (soon if one.late else old) and len(found) < ADOPTED_MAX)
                ):
                    late.update([digest] if one.late else [])
                    found.setdefault(digest, (vault.number, one.size, {}))[2][number] = one.sequence
        if not found:
            return False
        lease_until = int(state.slow_now() + state.settings.adopt_lease)
        moves = await state.database.run(adopt, found, state.policy.survive + 1, lease_until, late)
        state.beliefs.take(moves)
        if moves.placed:
            state.unread.update(found[digest][0] for digest in late)
            _log.info("packs_adopted", packs=len({digest for _, digest, _, _ in moves.placed}))
            self._changed()
        return len(found) >= ADOPTED_MAX

    # --- one node ---

    async def _try(self, node: Node) -> None:
        try:
            async with self._readers:
                if node.read_sequence == NEVER_READ:
                    self._late.add(node.number)
                await self._read(node)
        except HoldfastError as error:
            _log.warning("inventory_unread", node=node.name, reason=error.detail)
        finally:
            self._late.discard(node.number)

    async def _read(self, node: Node) -> None:
        state, was = self._state, node.agreed
        belief = state.beliefs.of_node.get(node.number)
        if belief is None:
            belief, _ = await self._load(node)
            if not node.read_sequence:
                await self._note(node, [], read_up_to=0)  # also for a coordinator that is started again
        sequence, root = node.sequence, node.root
        back = sequence < node.read_sequence
        while not back and sequence != node.read_sequence:
            page = await self._page(node, after=max(node.read_sequence, 0))
            sequence, root = page.sequence, page.root
            back = sequence < node.read_sequence
            if not back:
                full = len(page.entries) == m.PAGE_MAX
                await self._note(node, page.entries, read_up_to=page.entries[-1].sequence if full else sequence)
                if not full:
                    break
        belief = state.beliefs.of_node[node.number]
        if back or (belief.roots.root != root and (belief.highest <= sequence or not was)):
            await self._compare(node)
        if not node.agreed:
            node.agreed = True
            _log.info("node_agrees", node=node.name, sequence=node.read_sequence)
            self._changed()

    async def _load(self, node: Node) -> tuple[Belief, dict[Digest, int]]:
        """The node's sum, anew from the placements, which are given, too; strangers stay."""
        state, reading, after = self._state, Reading(), 0
        async with self._one_load:  # each holds all digests of its node
            state.beliefs.reading[node.number] = reading
            try:
                while rows := await state.database.run(queries_repair.believed, node.number, after, BELIEVED_MAX):
                    after = rows[-1].pack
                    await state.pool.run(reading.page, rows)
            finally:
                del state.beliefs.reading[node.number]
            old = state.beliefs.of_node.get(node.number)
            belief = state.beliefs.of_node[node.number] = reading.end()
            placed = reading.placed
        for digest, stranger in (old.strangers if old is not None else {}).items():
            if digest not in placed:
                belief.see(digest, stranger)
        return belief, placed

    async def _compare(self, node: Node) -> None:
        """Finds exactly what differs, under the prefixes whose roots differ."""
        # What is believed is read before the node is asked: what is put in between is newer than what is believed.
        belief, placed = await self._load(node)
        roots, strangers = belief.roots.prefixes(), list(belief.strangers)
        believed = await self._state.pool.run(Believed, [*placed, *strangers])
        comparison = Comparison(believed, roots, lambda query: self._ask(node, query))
        prefixes = 0
        async for part in comparison.parts():
            prefixes += len(part.prefixes)
            gone = [digest for digest in part.believed if digest not in part.held]
            missing = {digest: placed[digest] for digest in gone if digest in placed}
            entries = [one for one in part.held.values() if placed.get(one.digest) != one.sequence]
            for digest in gone:
                if digest not in placed:
                    belief.lose(digest)
            for start in range(0, max(len(entries), 1), m.PAGE_MAX):
                await self._note(node, entries[start : start + m.PAGE_MAX], believed=missing if not start else {})
        _log.info("inventory_compared", node=node.name, sequence=comparison.sequence, prefixes=prefixes)
        await self._note(node, [], read_up_to=comparison.sequence)
        await self._load(node)

    async def _ask(self, node: Node, query: m.InventoryQuery) -> m.InventoryPage:
        return await self._state.http.call(Target(node.id, node.reached_url), routes.INVENTORY, query)

    async def _page(self, node: Node, *, after: int) -> m.InventoryPage:
        page = await self._ask(node, m.InventoryQuery(after=after))
        sequences = [entry.sequence for entry in page.entries]
        if any(later <= earlier for earlier, later in zip([after, *sequences], sequences, strict=False)):
            raise Unavailable(f"the inventory of {node.name} does not ascend")
        return page

    async def _note(
        self,
        node: Node,
        entries: Sequence[m.InventoryEntry],
        *,
        believed: Mapping[Digest, int] | None = None,
        read_up_to: int | None = None,
    ) -> None:
        state = self._state
        if not entries and not believed and read_up_to is None:
            return
        vaults = {id_: row.number for id_ in _vaults(entries) if (row := state.access.vault(id_)) is not None}
        noted = await state.database.run(note, node.number, entries, vaults, believed=believed, read_up_to=read_up_to)
        state.beliefs.take(noted.moves)
        if read_up_to is not None:
            node.read_sequence = read_up_to
        belief, now = state.beliefs.of_node[node.number], state.clock.monotonic()
        for entry in entries:
            if not entry.here:
                belief.lose(entry.digest)
        late = node.number in self._late
        for entry in noted.strangers:
            belief.see(entry.digest, Stranger(entry.size, entry.sequence, entry.vault, now, late))
        if noted.lost:
            _log.warning("copies_lost", node=node.name, packs=noted.lost)
        if noted.moves.gone or noted.moves.placed:
            self._changed()


def _vaults(entries: Iterable[m.InventoryEntry]) -> set[Id]:
    return {entry.vault for entry in entries if entry.vault is not None}
