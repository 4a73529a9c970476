"""Repair as it runs: looks at the nodes, asks the database who lacks copies, and hands tasks to dispatch.

What is decided is decided in ``repair`` and ``breaker``; here is when and with what. Nothing is kept on disk: a restart
looks again, and gives every silent node a full window.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Connection

from holdfast import logs
from holdfast.coordinator.commit import Pack
from holdfast.coordinator.every_pack import every_pack
from holdfast.coordinator.registry import Node
from holdfast.coordinator.repair import breaker as breakers
from holdfast.coordinator.repair.breaker import Breaker, Member
from holdfast.coordinator.repair.dispatch import Dispatch, Job
from holdfast.coordinator.repair.plan import NEVER, Debt, Holder, Need, Net, Shape, assess, order, plan
from holdfast.coordinator.state import State
from holdfast.coordinator.transaction import load_packs
from holdfast.metadata import queries_packs, queries_repair
from holdfast.worker import Progress

QUEUE_MAX = 20_000
PORTION = 256
PER_NODE_MAX = 64
"""Tasks that one node may have outstanding: four answers to its question."""

LIMITED_MAX = 16
"""Copies outstanding in the whole network after the breaker's hold is over."""

LOOK_S = 30.0
SWEEP_S = 3600.0
REST_FACTOR = 20
"""Asking about many packs takes a while in which nothing is committed: it rests for so many times as long."""

_log = logs.get_logger(__name__)


def look(connection: Connection, net: Net, watched: Sequence[int]) -> tuple[list[Need], Debt, set[int], int]:
    """(needs in order, debt, packs to watch, largest target): all that lacks copies, in one transaction.

    ``watched``: packs that may have fewer copies than they should, wherever these are.
    """
    more = set(watched)
    still: set[int] = set()
    seen: set[int] = set()

    def shapes() -> Iterator[Shape]:
        on = net.affected()
        for row in queries_repair.affected(connection, on) if on else ():
            seen.add(row[0])
            yield Shape(*row)
        for row in queries_repair.shapes(connection, sorted(more - seen)):
            shape = Shape(*row)
            if assess(shape, net) is not None:
                still.add(shape.pack)
            yield shape

    needs, debt = order(shapes(), net, QUEUE_MAX)
    return needs, debt, still | (more & seen), queries_repair.largest_target(connection)


class Repair:
    """``unit`` is a worker's unit; ``wake`` makes the worker look again."""

    def __init__(self, state: State, dispatch: Dispatch, wake: Callable[[], None]) -> None:
        self.debt = Debt()
        self.breaker = Breaker()
        self.looked: float | None = None
        """Monotonic seconds of the last look at the database, None before the first."""
        self._state = state
        self._dispatch = dispatch
        self._wake = wake
        self._written_off: frozenset[int] = frozenset()
        self._needs: list[Need] = []
        self._at = 0
        self._watched: set[int] = set()
        self._again: set[int] = set()
        self._signature: object = None
        self._took = 0.0
        self._swept = -math.inf
        self._largest = 1
        self._next_due = NEVER
        self._one = asyncio.Lock()

    # --- what is there ---

    def net(self) -> Net:
        """The network as repair sees it now."""
        state, settings = self._state, self._state.settings
        holders = {node.number: self._holder(node) for node in state.registry.all()}
        return Net(
            holders=holders,
            floor=settings.floor,
            least_wait=(settings.offline_after + 2) * settings.heartbeat_interval,
            held=self.breaker.state == "open",
        )

    def _holder(self, node: Node) -> Holder:
        registry, settings = self._state.registry, self._state.settings
        live = registry.is_live(node)
        silence = 0.0
        if not live:
            silence = registry.silence(node)
            if not node.agreed:
                silence = max(silence, registry.look() - node.doubted)
            if node.number in self._written_off:
                silence = NEVER
        return Holder(
            number=node.number,
            store=node.store,
            domain=node.domain,
            live=live,
            leaving=node.word == "draining",
            excused=node.word == "maintenance",
            silence=silence,
            out_after=settings.out_after_always_on if node.always_on else settings.out_after,
        )

    def _members(self) -> list[Member]:
        registry = self._state.registry
        return [
            Member(
                node.number,
                node.capacity,
                registry.silence(node)
                if node.word != "maintenance" and registry.hearing(node) in ("down", "out")
                else None,
            )
            for node in registry.all()
            if node.reached_url
        ]

    # --- orders ---

    def now(self) -> None:
        """An operator says that nobody waits for the nodes that are silent now, and closes the breaker."""
        members = self._members()
        self._written_off |= {one.number for one in members if one.silence is not None}
        self.breaker = breakers.dismiss(self.breaker, members)
        self._signature = None
        self._wake()

    def reconsider(self, packs: set[int]) -> None:
        """These may need copies: they are looked at soon."""
        self._again |= packs

    # --- the unit ---

    async def unit(self) -> Progress:
        """Looks if something changed or is due, then hands out as many tasks as are allowed.

        An operator's order calls it beside the worker: one after the other, or what one look found the other would
        forget.
        """
        async with self._one:
            return await self._unit()

    async def _unit(self) -> Progress:
        state, dispatch = self._state, self._dispatch
        now = state.registry.look()
        for job in dispatch.expire(now):
            self._again.add(job.pack)
        self._end_maintenance()
        self._step(now)
        if state.position.stale or self._state.repair_paused:
            dispatch.drop_where(lambda job: True)
            self._signature = None
            if self._state.repair_paused:
                await self._look(now)
            return Progress.IDLE
        await self._look(now)
        while self._at < len(self._needs) and self._room() > 0:
            portion = self._needs[self._at : self._at + min(PORTION, self._room())]
            self._at += len(portion)
            await self._hand_out(portion, now)
        return Progress.IDLE

    def _room(self) -> int:
        copying, _ = self._dispatch.copying()
        if self.breaker.state == "limited":
            return max(LIMITED_MAX - copying, 0)
        return self._dispatch.room

    def _end_maintenance(self) -> None:
        slow = self._state.slow_now()
        for node in self._state.registry.all():
            if node.word == "maintenance" and node.word_until <= slow:
                node.word, node.word_until, node.dirty = "", 0.0, True

    def _step(self, now: float) -> None:
        settings = self._state.settings
        members = self._members()
        self._written_off &= {one.number for one in members if one.silence is not None}
        before = self.breaker.state
        self.breaker = breakers.step(
            self.breaker,
            members,
            now,
            window=settings.out_after,
            hold=settings.breaker_hold,
            survive=max(self._state.policy.survive, self._largest - 1),
        )
        if self.breaker.state != before:
            _log.warning("breaker", state=self.breaker.state, before=before, nodes=len(self.breaker.gone))
            if self.breaker.state == "open":
                self._dispatch.drop_where(lambda job: job.kind != "copy" or job.urgency[0] > settings.floor)

    async def _look(self, now: float) -> None:
        """Asks the database, if something changed, something is due, or the last answer is old."""
        net = self.net()
        signature = (
            frozenset((one.number, one.live, one.leaving, one.excused) for one in net.holders.values()),
            self._written_off,
            net.held,
        )
        again = self._again | self._state.beliefs.short
        rested = self.looked is None or now - self.looked >= max(self._took * REST_FACTOR, 1.0)
        sweep = now - self._swept >= SWEEP_S
        old = self.looked is None or now - self.looked >= LOOK_S
        pending = bool(self.debt.due_packs or self.debt.waiting_packs or self.debt.lost or self._watched)
        if not (
            signature != self._signature or now >= self._next_due or sweep or (rested and again) or (old and pending)
        ):
            return
        if not rested and signature == self._signature:
            return
        self._again, self._state.beliefs.short = set(), set()
        began = self._state.clock.monotonic()
        try:
            if sweep:
                async for short in every_pack(self._state.database, queries_repair.short):
                    again.update(short)
            self._needs, self.debt, self._watched, self._largest = await self._state.database.run(
                look, net, sorted(self._watched | again)
            )
        except BaseException:
            self._again |= again
            raise
        self._at = 0
        self._signature = signature
        self._next_due = now + self.debt.next_in
        self.looked = now
        if sweep:
            self._swept = now
        self._took = self._state.clock.monotonic() - began

    async def _hand_out(self, portion: Sequence[Need], now: float) -> None:
        """Plans ``portion`` on what is known of its packs at this moment."""
        state, dispatch = self._state, self._dispatch
        chosen = [need.pack for need in portion if not dispatch.busy(need.pack, now)]
        packs = await state.database.run(_loaded, chosen)
        net = self.net()
        needs: list[tuple[Shape, Need]] = []
        for number in chosen:
            pack = packs.get(number)
            if pack is None or dispatch.busy(number, now):
                continue
            shape = Shape(number, pack.target, pack.size, tuple(sorted(pack.places)))
            need = assess(shape, net)
            if need is not None and need.copies:
                needs.append((shape, need))
        sites = state.registry.sites()
        limit = LIMITED_MAX if self.breaker.state == "limited" else PER_NODE_MAX
        room = {site.number: dispatch.room_at(site.number, limit) for site in sites}
        urgency = {need.pack: (need.live, need.spare) for _, need in needs}
        if needs:
            dispatch.make_room(sum(need.copies for _, need in needs), max(urgency.values()))
        for copy in plan(needs, net, sites, room, state.randomness):
            if not dispatch.room:
                break
            pack = packs[copy.pack]
            state.registry.plan(copy.target, pack.size)
            dispatch.add(
                "copy",
                pack=copy.pack,
                digest=pack.digest,
                size=pack.size,
                vault=pack.vault,
                node=copy.target,
                urgency=urgency[copy.pack],
                now=now,
                sources=copy.sources,
            )

    # --- what came of it ---

    def ended(self, job: Job) -> None:
        """A task is over: its pack is looked at again."""
        self._again.add(job.pack)
        self._wake()


def _loaded(connection: Connection, numbers: Sequence[int]) -> dict[int, Pack]:
    owed = {row[0] for row in queries_repair.shapes(connection, numbers)}
    return load_packs(connection, queries_packs.packs_by_number(connection, sorted(owed)))
