"""How the network is: policy and status, computed when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from holdfast.coordinator.every_pack import every_pack
from holdfast.coordinator.loss.reflog import Reflog
from holdfast.coordinator.registry import Node
from holdfast.coordinator.repair.words import RepairWords
from holdfast.coordinator.settings import floor_of
from holdfast.coordinator.state import State
from holdfast.errors import BadRequest, Conflict
from holdfast.metadata import queries_members, queries_status
from holdfast.metadata.queries_status import CopiesRow
from holdfast.wire import messages as m
from holdfast.wire.http import checked_url
from holdfast.wire.serve import Call

T = TypeVar("T")

ADDRESSES_MAX = 8

REST_FACTOR = 20
"""Counting many packs takes a while: for so many times as long it is not repeated."""

REST_FROM_PORTIONS = 2
"""What takes one transaction is counted each time anew."""


@dataclass(slots=True)
class _Counted(Generic[T]):
    rows: T
    at: tuple[object, ...]
    absent: frozenset[int]
    fresh_until: float


class Counts:
    """Counts over all packs, kept while they hold; under many commits they may be a little old, never about nodes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._copies: _Counted[list[CopiesRow]] | None = None
        self._nodes: _Counted[dict[int, tuple[int, int]]] | None = None
        self._domains: _Counted[int] | None = None

    async def by_copies(self) -> list[CopiesRow]:
        """Leased and live packs by live copies and target."""
        absent = self._state.registry.absent()
        if not self._holds(self._copies, absent):
            count = partial(queries_status.packs_by_copies, absent_nodes=sorted(absent))
            self._copies = await self._count(count, _added, absent)
        assert self._copies is not None
        return self._copies.rows

    async def by_node(self) -> dict[int, tuple[int, int]]:
        """Node number -> (packs, bytes)."""
        if not self._holds(self._nodes, frozenset()):
            self._nodes = await self._count(queries_status.packs_by_node, _joined, frozenset())
        assert self._nodes is not None
        return self._nodes.rows

    async def fewest_domains(self) -> int:
        """On how many domains the live copies lie of the pack that lies on the fewest."""
        absent = self._state.registry.absent()
        if not self._holds(self._domains, absent):
            count = partial(queries_status.fewest_domains, absent_nodes=sorted(absent))
            self._domains = await self._count(count, _least, absent)
        assert self._domains is not None
        return self._domains.rows

    def forget(self) -> None:
        """Something changed that is no commit: it is counted again, but not while counting rests."""
        for counted in (self._copies, self._nodes, self._domains):
            if counted is not None:
                counted.at = ()

    def _holds(self, counted: _Counted[T] | None, absent: frozenset[int]) -> bool:
        if counted is None or counted.absent != absent:
            return False
        return counted.at == self._at() or self._state.clock.monotonic() < counted.fresh_until

    def _at(self) -> tuple[object, ...]:
        """Another value after every commit, and after every copy that was made, found or lost."""
        return self._state.position.current, self._state.beliefs.moved

    async def _count(
        self, query: Callable[..., Any], together: Callable[[list[Any]], T], absent: frozenset[int]
    ) -> _Counted[T]:
        clock, at = self._state.clock, self._at()
        began = clock.monotonic()
        portions = [rows async for rows in every_pack(self._state.database, query)]
        now = clock.monotonic()
        rest = (now - began) * REST_FACTOR * (len(portions) >= REST_FROM_PORTIONS)
        return _Counted(together(portions), at, absent, now + rest)


def _added(portions: list[list[CopiesRow]]) -> list[CopiesRow]:
    counts: Counter[tuple[int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for row in (row for rows in portions for row in rows):
        counts[row.live, row.target] += row.packs
        sizes[row.live, row.target] += row.bytes
    return [CopiesRow(*key, packs, sizes[key]) for key, packs in counts.items()]


def _joined(portions: list[dict[int, tuple[int, int]]]) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for node, (packs, size) in (item for rows in portions for item in rows.items()):
        had = found.get(node, (0, 0))
        found[node] = had[0] + packs, had[1] + size
    return found


def _least(portions: list[int | None]) -> int:
    return min((domains for domains in portions if domains is not None), default=0)


def pack_counts(rows: list[CopiesRow], floor: int) -> tuple[m.PackCounts, int | None]:
    """Counts for people, and how many nodes may die now without a pack being lost (None without packs)."""
    total = healthy = lost = endangered = size = 0
    fewest: int | None = None
    for row in rows:
        total += row.packs
        size += row.bytes
        if row.live >= row.target:
            healthy += row.packs
        elif row.live == 0:
            lost += row.packs
        elif row.live <= floor_of(row.target, floor):
            endangered += row.packs
        fewest = row.live if fewest is None else min(fewest, row.live)
    counts = m.PackCounts(
        total=total, healthy=healthy, degraded=total - healthy - lost, lost=lost, floor=endangered, stored=size
    )
    return counts, None if fewest is None else max(fewest - 1, 0)


def scrubbed(nodes: Iterable[Node]) -> m.Scrubbed:
    """What ``nodes`` say of their scrub, together."""
    said = [node for node in nodes if node.unread is not None]
    if not said:
        return m.Scrubbed()
    last = max(said, key=lambda node: node.unread or 0)
    return m.Scrubbed(
        oldest=last.unread,
        node=last.name,
        overdue=sum(node.overdue for node in said),
        nodes=sum(node.overdue > 0 for node in said),
    )


class Status:
    """Handlers."""

    def __init__(self, state: State, counts: Counts, words: RepairWords, reflog: Reflog) -> None:
        self._state = state
        self._counts = counts
        self._words = words
        self._reflog = reflog

    def _policy(self) -> m.Policy:
        policy = self._state.policy
        floor = floor_of(policy.survive + 1, self._state.settings.floor)
        return m.Policy(survive=policy.survive, floor=floor, version=policy.version)

    async def policy(self, call: Call, request: None) -> m.Policy:
        self._state.require_member(call.caller)
        return self._policy()

    async def change_policy(self, call: Call, request: m.PolicyChange) -> m.Policy:
        """By an operator; a change that was made already is answered as done."""
        state = self._state
        state.access.require_operator(call.caller)
        if request.version != state.policy.version:
            if request.version == state.policy.version - 1 and request.survive == state.policy.survive:
                return self._policy()
            raise Conflict(
                f"the policy is survive {state.policy.survive} (version {state.policy.version}) now: look and try again"
            )
        state.policy.version += 1  # before the first await, so that of two changes one is refused
        try:
            await state.database.run(
                lambda connection: queries_members.change_network(
                    connection, survive=request.survive, policy_version=request.version + 1
                )
            )
        except BaseException:
            state.policy.version -= 1
            raise
        state.policy.survive = request.survive
        state.changed(True)
        return self._policy()

    async def change_addresses(self, call: Call, request: m.AddressChange) -> m.Addresses:
        """By an operator: where this network's coordinators are reached. May be asked twice."""
        state = self._state
        state.access.require_operator(call.caller)
        gone = set(request.remove)
        urls = [url for url in dict.fromkeys([*state.urls, *map(checked_url, request.add)]) if url not in gone]
        if not 0 < len(urls) <= ADDRESSES_MAX:
            raise BadRequest(f"a coordinator has at least one address, and at most {ADDRESSES_MAX}")
        await state.database.run(lambda connection: queries_members.change_network(connection, urls="\n".join(urls)))
        state.urls[:] = urls
        state.changed(True)
        return m.Addresses(urls=urls)

    async def status(self, call: Call, request: None) -> m.Status:
        state = self._state
        state.require_member(call.caller)
        packs, may_die = pack_counts(await self._counts.by_copies(), state.settings.floor)
        nodes = state.registry.all()
        live = [node for node in nodes if state.registry.is_live(node)]
        machines, machines_may_die = len({node.domain for node in live}), may_die
        if may_die and machines < len(live):  # else every node is a machine
            machines_may_die = max(await self._counts.fewest_domains() - 1, 0)
        return m.Status(
            packs=packs,
            nodes=dict(Counter(state.registry.state(node)[0] for node in nodes)),
            tasks=self._words.tasks(),
            repair=self._words.state(),
            policy=self._policy(),
            machines=machines,
            disks=len({node.store for node in live}),
            may_die=may_die,
            machines_may_die=machines_may_die,
            vaults=state.access.vaults,
            epoch=state.position.epoch,
            commit=state.position.commit,
            reflog_lag=self._reflog.lag(),
            reflog_commits=self._reflog.commits_behind(),
            scrub=scrubbed(live),
            urls=state.urls,
        )
