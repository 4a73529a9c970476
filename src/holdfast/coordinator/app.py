"""The coordinator: handlers bound to routes, and what it does by itself."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

from holdfast import logs
from holdfast.auth.identity import Identity
from holdfast.clock import Clock, Randomness
from holdfast.coordinator import collect
from holdfast.coordinator.alarms import Alarms
from holdfast.coordinator.hold import INTERVAL_S as HOLD_S
from holdfast.coordinator.hold import Hold
from holdfast.coordinator.inventory.sync import InventorySync
from holdfast.coordinator.join import Join
from holdfast.coordinator.loss.reflog import Reflog
from holdfast.coordinator.loss.roll_call import RollCall
from holdfast.coordinator.nodes import Nodes
from holdfast.coordinator.packs import Packs
from holdfast.coordinator.refs import Refs
from holdfast.coordinator.repair.dispatch import Dispatch
from holdfast.coordinator.repair.drain import Orders
from holdfast.coordinator.repair.loop import Repair
from holdfast.coordinator.repair.metrics import RepairMetrics
from holdfast.coordinator.repair.tasks import Tasks
from holdfast.coordinator.repair.trim import Tidy
from holdfast.coordinator.repair.words import RepairWords
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.coordinator.state import State
from holdfast.coordinator.status import Counts, Status
from holdfast.errors import HoldfastError
from holdfast.metadata.database import Database
from holdfast.pool import Pool
from holdfast.wire import routes
from holdfast.wire.http import HttpClient
from holdfast.wire.network import Listener, Network
from holdfast.wire.serve import DRAIN_S, Service
from holdfast.worker import Progress, Worker

_log = logs.get_logger(__name__)


class Coordinator:
    """One coordinator over one database. ``open`` makes it, ``start`` serves, ``stop`` ends it; each once.

    It closes neither ``database`` nor ``http``: who made them does, after ``stop``.
    """

    def __init__(self, state: State, network: Network) -> None:
        self.state = state
        self.id = state.identity.id
        self.name = state.name
        self.url = state.urls[0] if state.urls else ""
        self.hold = Hold(state.database, state.clock)
        self.service = Service(
            identity=state.identity,
            role="coordinator",
            name=state.name,
            clock=state.clock,
            network=network,
            epoch=lambda: state.position.current,
            health=self.health,
            refuses=self.hold.refused,
        )
        self.counts = Counts(state)
        self.dispatch = Dispatch(state.randomness)
        self.repair = Repair(state, self.dispatch, lambda: self._repair_worker.wake())
        self.inventory = InventorySync(state, self._changed)
        self.tidy = Tidy(state, self.dispatch, self.repair, self.inventory)
        self.reflog = Reflog(state)
        self._words = RepairWords(state, self.dispatch, self.repair, self.reflog, lambda: len(self.tidy.surplus))
        self._tasks = Tasks(state, self.dispatch, self.repair, self.inventory)
        self._nodes = Nodes(state, self.counts, self.inventory.heard, self.hold.refused)
        self._repair_worker = self._worker("repair", self.repair.unit, state.settings.repair_interval)
        self.alarms = Alarms(
            self._words.alarms,
            name=state.name,
            on_alarm=state.settings.on_alarm,
            clock=state.clock,
            network=network,
        )
        self._gauges = RepairMetrics(self.service.metrics, state, self.repair, self._words, self.counts, self.reflog)
        self._alarm_worker = self._worker("alarms", self._tell, state.settings.alarm_interval)
        self._tidy_worker = self._worker("tidy", self.tidy.unit, state.settings.sweep_interval)
        self._watch = self._worker("silence", self._look, state.settings.heartbeat_interval / 4)
        self._hold_worker = self._worker("hold", self.hold.unit, HOLD_S)
        self._save = self._worker("save", self._save_once, state.settings.save_interval)
        self._sweep = self._worker("sweep", self._sweep_once, state.settings.sweep_interval)
        self._reflog_worker = self._worker("reflog", self.reflog.unit, state.settings.reflog_interval)
        self._roll_call = RollCall(state)
        state.changed = self._state_changed
        self._add_routes()
        self._stopped = False

    @classmethod
    async def open(
        cls,
        *,
        identity: Identity,
        database: Database,
        http: HttpClient,
        network: Network,
        settings: CoordinatorSettings,
        clock: Clock,
        randomness: Randomness,
        pool: Pool,
    ) -> Coordinator:
        """Reads what the database knows. ``pool`` checks signatures; it must not be the database's.

        BadConfig if the database was never initialised or is another coordinator's.
        """
        state = await State.load(
            identity=identity,
            database=database,
            http=http,
            settings=settings,
            clock=clock,
            randomness=randomness,
            pool=pool,
        )
        return cls(state, network)

    def _worker(self, name: str, unit: Callable[[], Awaitable[Progress]], interval_s: float) -> Worker:
        state = self.state
        return Worker(
            name,
            unit,
            clock=state.clock,
            randomness=state.randomness,
            interval_s=interval_s,
        )

    def _add_routes(self) -> None:
        add = self.service.add
        join, packs, refs, status = (
            Join(self.state),
            Packs(self.state),
            Refs(self.state),
            Status(self.state, self.counts, self._words, self.reflog),
        )
        orders = Orders(self.state, self._nodes, self.repair, self._words, self.counts)
        add(routes.JOIN, join.join)
        add(routes.INVITES, join.invite)
        add(routes.DEVICES, join.device)
        add(routes.REVOCATIONS, join.revoke)
        add(routes.NODES, self._nodes.list)
        add(routes.HEARTBEAT, self._nodes.heartbeat, always=True)
        add(routes.PLAN, packs.plan)
        add(routes.REGISTER, packs.register)
        add(routes.COMMIT, packs.commit)
        add(routes.REFS, refs.page)
        add(routes.REF, refs.ref)
        add(routes.REFS_FIND, refs.find)
        add(routes.REF_HISTORY, refs.history)
        add(routes.VAULT_PACKS, refs.vault_packs)
        add(routes.PACKS_READ, packs.read)
        add(routes.POLICY, status.policy)
        add(routes.POLICY_CHANGE, status.change_policy)
        add(routes.ADDRESSES, status.change_addresses)
        add(routes.STATUS, status.status)
        add(routes.REPAIR, orders.repair)
        add(routes.NODE_DRAIN, orders.drain)
        add(routes.NODE_REMOVE, orders.remove)
        add(routes.NODE_MAINTENANCE, orders.maintenance)
        add(routes.TASKS, self._tasks.page)
        add(routes.TASK_COMPLETE, self._tasks.complete)
        add(routes.TASK_RENEW, self._tasks.renew)
        add(routes.TASK_FAIL, self._tasks.fail)

    @property
    def workers(self) -> list[Worker]:
        """Everything this coordinator does by itself."""
        own = [self._watch, self._save, self._sweep, self._repair_worker, self._tidy_worker, self._alarm_worker]
        return [*own, self._reflog_worker, *([self._hold_worker] if self.state.database.shared else [])]

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener:
        """Serves; Unavailable if the address cannot be had. ``port`` 0 takes a free one."""
        listener = await self.service.start(host, port, tls=tls)
        self._roll_call.start()
        for worker in self.workers:
            worker.start()
        if self.state.position.stale:
            _log.error("coordinator_is_old", at=self.state.position.current, heard=self.state.position.heard)
        _log.info("coordinator_started", name=self.name, port=listener.port, nodes=len(self.state.registry.all()))
        return listener

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Accepts nothing new, lets what is under way finish within ``drain_s``, saves. May be called twice."""
        if self._stopped:
            return
        self._stopped = True
        self.dispatch.close()
        await self.service.stop(drain_s)
        for worker in self.workers:
            await worker.stop()
        await self._roll_call.stop()
        await self._nodes.stop()
        await self._tasks.stop()
        await self.inventory.stop()
        await self.state.queue.close()
        try:
            await self.state.save()
            await self.state.save_beliefs()
        except HoldfastError as error:
            _log.error("coordinator_not_saved", reason=error.detail)

    def health(self) -> str:
        """``ok``, or why nothing can be written."""
        if self.state.position.stale:
            return "this coordinator runs on an old copy of its database: holdfast coordinator recover"
        refusal = self.hold.refusal()
        return self.state.database.poisoned or (refusal.detail if refusal is not None else "ok")

    def _changed(self) -> None:
        """Copies were lost, found, or believed again."""
        self.counts.forget()
        self._repair_worker.wake()

    def _state_changed(self, members: bool) -> None:
        if members or self.reflog.is_due():
            self._reflog_worker.wake()

    async def _tell(self) -> Progress:
        await self._gauges.refresh()
        return await self.alarms.unit()

    async def _look(self) -> Progress:
        self.state.registry.look()
        return Progress.IDLE

    async def _save_once(self) -> Progress:
        await self.state.save()
        return Progress.IDLE

    async def _sweep_once(self) -> Progress:
        """Lets go of what nothing holds any more; an old coordinator lets go of nothing."""
        if self.state.position.stale:
            return Progress.IDLE
        more = await self.inventory.adopt()
        if self.state.may_let_go():
            more |= await self.state.database.run(collect.release, self.state.slow_now())
        self.counts.forget()
        return Progress.BUSY if more else Progress.IDLE
