"""Tidying: copies too many are trimmed, copies of trashed packs are deleted. Nothing here is ever in a hurry.

A surplus is looked at for a day before anything goes, and a copy goes only when ``target`` other disks have just read
theirs and signed for them; of one pack one copy goes at a time. A pack is trashed only by the transaction that finds
that nothing holds it, and its copies go to the nodes' trash by grants that name the very copy (docs/design.md, 6).
Copies on a node that is being emptied need no day, but the same receipts. An open breaker stops all of it.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from holdfast import logs
from holdfast.blob import Digest
from holdfast.coordinator import collect
from holdfast.coordinator.commit import Pack
from holdfast.coordinator.every_pack import every_pack
from holdfast.coordinator.inventory.sync import InventorySync
from holdfast.coordinator.receipts import check_receipts
from holdfast.coordinator.registry import Node
from holdfast.coordinator.repair.dispatch import Dispatch
from holdfast.coordinator.repair.loop import PER_NODE_MAX, Repair
from holdfast.coordinator.repair.plan import Net, Shape, surplus
from holdfast.coordinator.state import State
from holdfast.coordinator.transaction import load_packs
from holdfast.errors import HoldfastError
from holdfast.metadata import queries_packs, queries_repair
from holdfast.metadata.tables import PackState
from holdfast.wire import routes
from holdfast.wire.http import Target
from holdfast.worker import Progress

CROWDED_MAX = 10_000
LOOK_S = 600.0
"""Looking for packs with too many copies reads all placements once: not often."""

LOOK_DRAINING_S = 60.0
RETRY_S = 600.0
"""A pack whose other copies could not all be vouched for is left alone for so long."""

TRIMS_AT_ONCE = 4
"""Each makes ``target`` nodes read a whole pack."""

TRIM = (1000, 0)
DELETE = (2000, 0)
"""Urgencies: behind every copy."""

RECEIPT_AGE_S_MAX = 300.0

_log = logs.get_logger(__name__)


class Tidy:
    """``unit`` is a worker's unit."""

    def __init__(self, state: State, dispatch: Dispatch, repair: Repair, inventory: InventorySync) -> None:
        self.surplus: dict[int, float] = {}
        """Packs with a copy too many -> since when, in slow seconds."""
        self._state = state
        self._dispatch = dispatch
        self._repair = repair
        self._inventory = inventory
        self._looked: float | None = None
        self._draining: frozenset[int] = frozenset()
        self._tried: dict[int, float] = {}  # pack -> monotonic seconds until which it is left alone

    async def unit(self) -> Progress:
        """Trashes what nothing holds, gives out deletes and trims."""
        state = self._state
        if not state.may_let_go() or state.repair_paused or self._repair.breaker.state != "closed":
            self._dispatch.drop_where(lambda job: job.kind != "copy")
            return Progress.IDLE
        await self._delete()
        await self._look()
        return Progress.THROTTLED if await self._trim() else Progress.IDLE

    # --- deletes ---

    async def _delete(self) -> None:
        state, dispatch = self._state, self._dispatch
        trashed = await state.database.run(collect.trash)
        if trashed:
            _log.info("packs_trashed", packs=len(trashed))
        await state.database.run(collect.forget)
        now = state.clock.monotonic()
        room = min(dispatch.room, collect.ROWS_MAX)
        live = sorted(state.registry.live())
        if not room or not live:
            return
        for row in await state.database.run(queries_repair.trashed_places, live, room):
            if dispatch.busy_on(row.number, row.node, now) or not dispatch.room_at(row.node, PER_NODE_MAX):
                continue
            dispatch.add(
                "delete",
                pack=row.number,
                digest=Digest(row.digest),
                size=row.size,
                vault=row.vault,
                node=row.node,
                urgency=DELETE,
                now=now,
                sequence=row.sequence,
            )

    # --- trims ---

    async def _look(self) -> None:
        """Which packs have too many copies; those that have no longer are forgotten."""
        state = self._state
        now = state.clock.monotonic()
        draining = frozenset(node.number for node in state.registry.all() if node.word == "draining")
        rest = LOOK_DRAINING_S if draining else LOOK_S
        if self._looked is not None and now - self._looked < rest and draining == self._draining:
            return
        if draining != self._draining:
            self._tried.clear()  # what was left alone may have to leave another node now
        self._looked, self._draining = now, draining
        crowded: set[int] = set()
        async for some in every_pack(state.database, queries_repair.crowded):
            crowded.update(some[: CROWDED_MAX - len(crowded)])
        found = await state.database.run(_crowded, self._repair.net(), crowded)
        slow = state.slow_now()
        self.surplus = {pack: self.surplus.get(pack, slow) for pack in found}

    async def _trim(self) -> bool:
        """Trims the first few whose day is over; True if there may be more to do at once."""
        state, dispatch = self._state, self._dispatch
        now, oldest = state.clock.monotonic(), state.slow_now() - state.settings.surplus_after
        ripe = [pack for pack, since in self.surplus.items() if since <= oldest or self._draining]
        self._tried = {pack: until for pack, until in self._tried.items() if until > now}
        ripe = [pack for pack in ripe if pack not in self._tried and not dispatch.busy(pack, now)][:TRIMS_AT_ONCE]
        if not ripe or not dispatch.room:
            return False
        packs = await state.database.run(_loaded, ripe)
        made = await asyncio.gather(*(self._trim_one(packs.get(pack), pack, oldest) for pack in ripe))
        return any(made)

    async def _trim_one(self, pack: Pack | None, number: int, oldest: float) -> bool:
        state = self._state
        if pack is None:
            self.surplus.pop(number, None)
            return False
        shape = Shape(number, pack.target, pack.size, tuple(sorted(pack.places)))
        net = self._repair.net()
        going = surplus(shape, net)
        if self.surplus.get(number, oldest + 1) > oldest:
            going = [node for node in going if net.holders[node].leaving]  # the others have a day
        self._tried[number] = state.clock.monotonic() + RETRY_S
        if not going:
            if self.surplus.get(number, oldest + 1) <= oldest:
                self.surplus.pop(number, None)
            return False
        victim = going[0]
        others = [
            state.registry.number(node)
            for node in shape.places
            if node != victim and (holder := net.holders.get(node)) is not None and holder.live and not holder.leaving
        ]
        stores = {state.registry.number(victim).store}
        kept: set[bytes] = set()
        for receipt_of in await asyncio.gather(*(self._receipt(node, pack) for node in others)):
            if receipt_of is not None and receipt_of.store not in stores:
                kept.add(receipt_of.store)
        if len(kept) < pack.target or self._repair.breaker.state != "closed":
            _log.info("not_trimmed", digest=str(pack.digest), receipts=len(kept), needed=pack.target)
            return False
        now = state.clock.monotonic()
        if self._dispatch.busy(number, now):
            return False
        self._dispatch.add(
            "trim",
            pack=number,
            digest=pack.digest,
            size=pack.size,
            vault=pack.vault,
            node=victim,
            urgency=TRIM,
            now=now,
            sequence=pack.places[victim],
        )
        return True

    async def _receipt(self, node: Node, pack: Pack) -> Node | None:
        """The node, if it has just read its copy, found it right and signed for it."""
        state = self._state
        try:
            found = await state.http.call(
                Target(node.id, node.reached_url), routes.BLOB_VERIFY, path={"digest": str(pack.digest)}
            )
            if found.state == "ok" and found.receipt is not None:
                oldest = state.clock.now() - RECEIPT_AGE_S_MAX
                fresh = check_receipts(pack.digest, pack.size, [found.receipt], state.registry.get, oldest)
                return node if node.number in fresh else None
        except HoldfastError as error:
            _log.info("not_verified", node=node.name, digest=str(pack.digest), reason=error.detail)
            return None
        self._inventory.read(node)
        return None


def _crowded(connection: Connection, net: Net, numbers: set[int]) -> list[int]:
    """Packs with a copy that may go, by what is on record now: of ``numbers``, and on nodes that are being emptied."""
    numbers = set(numbers)
    leaving = [one.number for one in net.holders.values() if one.leaving]
    for node in leaving:
        numbers.update(queries_repair.packs_of_node(connection, node))
    shapes = (Shape(*row) for row in queries_repair.shapes(connection, sorted(numbers)))
    return [shape.pack for shape in shapes if surplus(shape, net)]


def _loaded(connection: Connection, numbers: list[int]) -> dict[int, Pack]:
    found = load_packs(connection, queries_packs.packs_by_number(connection, numbers))
    return {number: pack for number, pack in found.items() if pack.state in (PackState.LEASED, PackState.LIVE)}
