"""What a running coordinator's handlers share, and how it is read from the database at the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from holdfast.auth.identity import Id, Identity
from holdfast.clock import Clock, Randomness, SlowClock
from holdfast.codec.refs import RefKind
from holdfast.coordinator.access import Access, DeviceRow, VaultRow
from holdfast.coordinator.commit import Terms
from holdfast.coordinator.commit_queue import CommitQueue
from holdfast.coordinator.grants import PutGrants
from holdfast.coordinator.inventory.belief import Belief, Beliefs
from holdfast.coordinator.position import Position
from holdfast.coordinator.registry import Registry, node_of
from holdfast.coordinator.settings import CoordinatorSettings, floor_of
from holdfast.coordinator.transaction import Moves
from holdfast.errors import BadConfig, Unauthorized
from holdfast.metadata import queries_members, queries_reflog, queries_repair
from holdfast.metadata.database import Database
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire.http import HttpClient


@dataclass(slots=True)
class Policy:
    """The network's one number; ``version`` rises with each change."""

    survive: int
    version: int


class State:
    """Made by ``load``; used in the event loop. ``pool`` is for checking signatures, not for the database."""

    def __init__(
        self,
        *,
        identity: Identity,
        database: Database,
        http: HttpClient,
        settings: CoordinatorSettings,
        clock: Clock,
        randomness: Randomness,
        pool: Pool,
        name: str,
        urls: list[str],
        policy: Policy,
        position: Position,
        slow_clock: SlowClock,
    ) -> None:
        self.identity = identity
        self.database = database
        self.http = http
        self.settings = settings
        self.clock = clock
        self.randomness = randomness
        self.pool = pool
        self.name = name
        self.urls = urls
        self.policy = policy
        self.position = position
        self.slow_clock = slow_clock
        self.registry = Registry(clock, settings)
        self.access = Access(identity.id, clock.now)
        self.grants = PutGrants(identity, settings.grant_life)
        self.beliefs = Beliefs()
        self.repair_paused = False
        """An operator's word, kept over restarts."""
        self.queue = CommitQueue(database, position, self.terms, self._committed)
        self.unread: set[int] = set()
        """Vaults with adopted packs: none of their devices has read yet what refs these bring."""
        self.hold_until = 0.0
        """Slow seconds until which nothing is let go of, after a recovery."""
        self.changed: Callable[[bool], None] = lambda members: None
        """Called after each commit, and with True after a change of members or policy; must not wait."""
        self.heard_all = asyncio.Event()
        """Set once the nodes were asked what they have heard (``roll_call``); nothing is committed before."""
        self._started = clock.monotonic()

    @classmethod
    async def load(
        cls,
        *,
        identity: Identity,
        database: Database,
        http: HttpClient,
        settings: CoordinatorSettings,
        clock: Clock,
        randomness: Randomness,
        pool: Pool,
    ) -> State:
        """BadConfig if the database was never initialised or belongs to another coordinator."""
        facts = await database.run(queries_members.network_facts)
        if facts is None:
            raise BadConfig(
                "there is no network in this database: name its own (--database), or: holdfast coordinator init"
            )
        if facts.coordinator != identity.id:
            raise BadConfig("the database belongs to another coordinator than identity.key")
        slow_clock = SlowClock(facts.slow_elapsed, facts.slow_wall)
        slow_clock.start(clock)
        state = cls(
            identity=identity,
            database=database,
            http=http,
            settings=settings,
            clock=clock,
            randomness=randomness,
            pool=pool,
            name=facts.name,
            urls=facts.urls.split(),
            policy=Policy(facts.survive, facts.policy_version),
            position=Position(identity, facts.epoch, facts.commit_number, (facts.heard_epoch, facts.heard_commit)),
            slow_clock=slow_clock,
        )
        state.access.revocations = facts.revocations
        state.repair_paused = facts.repair == "paused"
        state.hold_until = facts.hold_until
        state.unread = await database.run(queries_reflog.unread_vaults)
        for row in await database.run(queries_members.all_nodes):
            state.registry.add(node_of(row))
        for number, sums in (await database.run(queries_repair.take_beliefs)).items():
            state.beliefs.of_node[number] = Belief.decode(sums)
        vaults: dict[int, Id] = {}
        for row in await database.run(queries_members.all_vaults):
            vaults[row.number] = Id(row.id)
            state.access.add_vault(VaultRow(row.number, Id(row.id), row.quota))
        for row in await database.run(queries_members.all_devices):
            state.access.add_device(
                DeviceRow(
                    row.serial, vaults[row.vault], Id(row.device), row.rights, row.not_after, row.operator,
                    row.certificate, row.countersigned, row.revoked,
                )
            )  # fmt: skip
        return state

    def slow_now(self) -> float:
        """Seconds of the slow clock."""
        return self.slow_clock.read(self.clock)

    def may_let_go(self) -> bool:
        """May anything be released, trashed or trimmed now?

        Not by a coordinator that has heard of later state, nor for so long after a start that every node that lives has
        said what it has heard, nor in the time after a recovery in which devices come with what it does not know.
        """
        settled = (self.settings.offline_after + 1) * self.settings.heartbeat_interval
        return (
            not self.position.stale
            and self.clock.monotonic() - self._started >= settled
            and self.slow_now() >= self.hold_until
        )

    def _committed(self, moves: Moves) -> None:
        self.beliefs.take(moves)
        self.changed(False)

    def terms(self) -> Terms:
        """What holds for commits at this moment."""
        return Terms(
            slow=self.slow_now(),
            wall=self.clock.now(),
            lease_s=self.settings.lease,
            history_s=self.settings.history,
            tombstones_s=self.settings.tombstones,
            survive=self.policy.survive,
            floor=self.settings.floor,
            live=self.registry.live(),
            counted=self.registry.counted(),
            stores=self.registry.stores(),
            directory=RefKind.DIRECTORY,
        )

    def wire_settings(self) -> m.Settings:
        """What members adopt."""
        return m.Settings(
            heartbeat_interval=self.settings.heartbeat_interval,
            offline_after=self.settings.offline_after,
            survive=self.policy.survive,
            floor=floor_of(self.policy.survive + 1, self.settings.floor),
        )

    def require_member(self, caller: Id | None) -> Id:
        """Unauthorized unless ``caller`` is a device, a node or the coordinator itself."""
        if caller is None or not (self.access.knows(caller) or self.registry.get(caller) is not None):
            raise Unauthorized("this key is not known here: join with an invite")
        return caller

    async def save_heard(self) -> None:
        """Writes down that nodes have heard of more than is known here: it outlasts restarts."""
        epoch, commit = self.position.heard
        await self.database.run(
            lambda connection: queries_members.change_network(connection, heard_epoch=epoch, heard_commit=commit)
        )

    async def save_beliefs(self) -> None:
        """Writes what the nodes hold, for the next start; at the very end, because nothing follows it any more."""
        sums = {number: belief.encode() for number, belief in self.beliefs.of_node.items()}
        await self.database.run(queries_repair.save_beliefs, sums)

    async def save(self) -> None:
        """Writes the slow clock and what nodes said last; once a minute and at the end."""
        rows = self.registry.unsaved()
        elapsed = self.slow_now()
        wall = self.slow_clock.wall
        await self.database.run(_save, rows, elapsed, wall)


def _save(connection: Connection, rows: list[dict[str, Any]], elapsed: float, wall: float) -> None:
    queries_members.change_nodes(connection, rows)
    queries_members.change_network(connection, slow_elapsed=elapsed, slow_wall=wall)
