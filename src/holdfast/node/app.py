"""A node as it runs: its routes, its workers, its start and its graceful end.

The node owns its ledger and its service; store, pools and client are the caller's, who closes them after ``stop``.
"""

from __future__ import annotations

import asyncio
import ssl

import msgspec

import holdfast
from holdfast import logs
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.clock import Clock, Randomness, SlowClock
from holdfast.errors import HoldfastError
from holdfast.node.agent import Heart
from holdfast.node.blobs import BlobRoutes
from holdfast.node.bucket import BucketStore
from holdfast.node.exchange.hints import Hints
from holdfast.node.exchange.setup import make_exchange
from holdfast.node.gauges import show
from holdfast.node.keeper import Keeper
from holdfast.node.layout import NodeDirectory
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.membership import Membership
from holdfast.node.outbox import INTERVAL_S, Door, NodeOutbox
from holdfast.node.permits import Permits
from holdfast.node.quota import TrashPace, accounts
from holdfast.node.reconcile import Reconciler
from holdfast.node.scrub import Scrub
from holdfast.node.settings import NodeSettings
from holdfast.node.store import NodeStore
from holdfast.node.tasks import TaskRunner
from holdfast.node.tasks_pace import CopyPace
from holdfast.node.trash import TrashPurge
from holdfast.peers.origin import Origin
from holdfast.peers.settings import PeersSettings
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient
from holdfast.wire.network import Listener, Network
from holdfast.wire.serve import DRAIN_S, Call, Service
from holdfast.worker import Progress, Worker

HEARTBEAT_RETRY_S = 2.0
TASK_RETRY_S = 10.0
SCRUB_FIRST_S = 60.0
PURGE_S = 600.0
SWEEP_S = 3600.0
COMPARE_SHARED_S = 6 * 3600.0
"""How often a store that others fill too is compared with the ledger."""
TIME_ASK_S = 5.0
"""So often at most the coordinator is asked what time it is, because a caller has another."""
TIME_ANSWER_S = 3.0
"""So long such a caller waits for the answer."""

_log = logs.get_logger(__name__)


class Node:
    """One node process. ``start`` and ``stop`` once each."""

    def __init__(
        self,
        directory: NodeDirectory,
        *,
        store: NodeStore,
        ledger: Ledger,
        membership: Membership,
        http: HttpClient,
        network: Network,
        settings: NodeSettings,
        clock: Clock,
        slow_clock: SlowClock,
        randomness: Randomness,
        pool: Pool,
        peers: PeersSettings | None = None,
        origin: Origin | None = None,
        outbox: Door | None = None,
    ) -> None:
        """``slow_clock`` has been started and is the store's trash clock, too. ``outbox`` is closed by ``stop``.

        BadConfig if ``store`` is not the one that ``directory`` remembers.
        """
        directory.check_store(store.id)
        self.identity: Identity = directory.identity
        self.id = directory.identity.id
        self.name = directory.record.name
        self.store = store
        self.ledger = ledger
        self.membership = membership
        self.settings = settings
        self.url = settings.advertise
        self._directory = directory
        self._store_id = bytes.fromhex(store.id)
        self._clock = clock
        self._slow_clock = slow_clock
        self._pool = pool
        self._http = http
        http.set_clock_source(membership.coordinator)
        self.service = Service(
            identity=directory.identity,
            role="node",
            name=directory.record.name,
            clock=clock,
            network=network,
            epoch=lambda: membership.epoch,
            time=http.time,
            ask_time=None if membership.is_alone else self._ask_time,
            health=self.health,
        )
        self.keeper = Keeper(
            store=store, ledger=ledger, slow_time=lambda: slow_clock.read(clock), lost=self._wake_heart
        )
        self.heart = Heart(membership, http=http, pool=pool, facts=self.heartbeat, interval=self._set_interval)
        self.reconciler = Reconciler(self.keeper)
        self.permits = Permits(node=self.identity.id, store=self._store_id, membership=membership, now=http.time)
        self._heart_worker = Worker(
            "heartbeat",
            self.heart.unit,
            clock=clock,
            randomness=randomness,
            interval_s=membership.settings.heartbeat_interval,
            throttle_s=HEARTBEAT_RETRY_S,
        )
        self._reconcile_worker = Worker(
            "reconcile",
            self.reconciler.unit,
            clock=clock,
            randomness=randomness,
            interval_s=COMPARE_SHARED_S,
            throttle_s=settings.reconcile_pause_s,
        )
        self._clock_worker = Worker(
            "slow clock", self._save_clock, clock=clock, randomness=randomness, interval_s=settings.clock_save_s
        )
        self._trash_pace = TrashPace()
        self.scrub = Scrub(
            self.keeper,
            directory.path,
            files=directory.files,
            pool=pool,
            clock=clock,
            slow_time=lambda: slow_clock.read(clock),
            busy=lambda: self.service.in_flight,
            interval=self._set_scrub_interval,
            period_s=settings.scrub_period_s,
        )
        purge = TrashPurge(self.keeper, slow_time=lambda: slow_clock.read(clock), keep_s=settings.trash_s)
        self._scrub_worker = Worker(
            "scrub", self.scrub.unit, clock=clock, randomness=randomness, interval_s=SCRUB_FIRST_S, throttle_s=10.0
        )
        self._upkeep = [
            self._scrub_worker,
            Worker("trash", purge.unit, clock=clock, randomness=randomness, interval_s=PURGE_S),
            Worker("sweep", self._sweep, clock=clock, randomness=randomness, interval_s=SWEEP_S),
        ]
        self.tasks = TaskRunner(
            identity=self.identity,
            store_id=self._store_id,
            keeper=self.keeper,
            permits=self.permits,
            membership=membership,
            http=http,
            settings=settings,
            clock=clock,
            trash_pace=self._trash_pace,
            copy_pace=CopyPace(clock, lambda: self.service.in_flight, settings.bwlimit_bytes),
        )
        self._task_worker = Worker(
            "tasks", self.tasks.unit, clock=clock, randomness=randomness, interval_s=1.0, throttle_s=TASK_RETRY_S
        )
        self.exchange = make_exchange(
            directory,
            service=self.service,
            keeper=self.keeper,
            permits=self.permits,
            membership=membership,
            http=http,
            settings=peers or PeersSettings(),
            origin=origin,
            open_read=settings.open_read,
            url=lambda: self.url,
            changed=self._manifest_changed,
            clock=clock,
            randomness=randomness,
            pool=pool,
        )
        self.outbox: NodeOutbox | None = None
        if outbox is not None:
            self._hints = Hints(self.exchange.exchange.directory, outbox)
            self.outbox = NodeOutbox(outbox, self.service.metrics, self._hints)
            self._outbox_worker = Worker(
                "outbox", self.outbox.unit, clock=clock, randomness=randomness, interval_s=INTERVAL_S
            )
            self._upkeep.append(self._outbox_worker)
        self._add_routes()
        show(self.service.metrics, self)
        self._asking: asyncio.Task[Progress] | None = None
        self._asked = 0.0
        self._stopped = False

    @property
    def workers(self) -> list[Worker]:
        """Everything this node does by itself."""
        own = [self._heart_worker, self._reconcile_worker, self._clock_worker, self._task_worker, *self._upkeep]
        return [*own, *self.exchange.workers]

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener:
        """Serves, then tells the coordinator; Unavailable if the address cannot be had. ``port`` 0 takes a free one.

        Store and ledger are compared in the background unless the last stop was clean.
        """
        listener = await self.service.start(host, port, tls=tls)
        if not self.url:
            host = f"[{listener.host}]" if ":" in listener.host else listener.host
            self.url = f"{'https' if tls else 'http'}://{host}:{listener.port}"
        self.keeper.reconciled = self.ledger.clean
        if not self.ledger.clean or not self.store.alone:
            self._reconcile_worker.start()
        self._clock_worker.start()
        for worker in self._upkeep:
            worker.start()
        if not self.membership.is_alone:
            self._task_worker.start()
            self._heart_worker.start()
        await self.exchange.start()
        _log.info("node_started", name=self._directory.record.name, url=self.url, blobs=self.ledger.roots.count)
        return listener

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Accepts nothing new, lets what is under way finish within ``drain_s``, says goodbye, closes the ledger.

        May be called twice.
        """
        if self._stopped:
            return
        self._stopped = True
        await self.service.stop(drain_s)
        for worker in self.workers:
            await worker.stop()
        if self.outbox is not None:
            await self.outbox.close()
        await self.exchange.stop()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if not self.membership.is_alone:
            await self.heart.leave()
        agree = self.keeper.reconciled and not self.keeper.leftovers
        await self.ledger.close(clean=agree and self.store.poisoned is None)
        try:
            await self._save_clock()
            await self._pool.run(self.membership.save)
        except HoldfastError as error:  # a full disk: both are written again at the next occasion
            _log.error("node_not_saved", name=self.name, reason=error.detail)

    def health(self) -> str:
        """``ok``, or why this node takes no blobs."""
        if self.store.poisoned is not None:
            return f"read-only since {self.store.poisoned}"
        return self.ledger.broken or "ok"

    def heartbeat(self) -> m.Heartbeat:
        """What the coordinator hears of this node now."""
        epoch, commit = self.membership.epoch
        debt = self.scrub.debt()
        return m.Heartbeat(
            store=self._store_id,
            sequence=self.ledger.sequence,
            count=self.ledger.roots.count,
            root=self.ledger.roots.root,
            free=self.store.space().available,
            load=self.service.in_flight,
            epoch=epoch,
            commit=commit,
            revocations=self.membership.revocations,
            read_only=self.settings.read_only or self.health() != "ok",
            unread=None if debt is None else int(debt.oldest_s),
            overdue=0 if debt is None else debt.overdue,
            url=self.url,
        )

    def overview(self) -> m.NodeOverview:
        """What this node says of itself."""
        found = self.store.space()
        space = accounts(found, self.ledger.shared.get("cache", (0, 0))[1])
        epoch, commit = self.membership.epoch
        return m.NodeOverview(
            id=self.identity.id,
            name=self._directory.record.name,
            version=holdfast.__version__,
            store=self._store_id,
            state=self.heart.state or "unknown",
            capacity=space.stored + space.incoming + space.free if found.capacity is None else found.capacity,
            space=space,
            blobs=self.ledger.roots.count,
            sequence=self.ledger.sequence,
            epoch=epoch,
            commit=commit,
            outbox_waiting=0 if self.outbox is None else self.outbox.waiting,
            outbox_conflicts=0 if self.outbox is None else self.outbox.conflicts,
            domain=self._directory.record.domain,
            always_on=self._directory.record.always_on,
            revocations=self.membership.revocations,
        )

    def _add_routes(self) -> None:
        self.blobs = blobs = BlobRoutes(
            identity=self.identity,
            store_id=self._store_id,
            keeper=self.keeper,
            permits=self.permits,
            settings=self.settings,
            clock=self._clock,
            now=self._http.time,
            pace=self._trash_pace,
            bwlimit_bytes=self.settings.bwlimit_bytes,
            busy=lambda: self.service.in_flight,
            exchange=self.exchange.exchange,
        )
        self.service.add(routes.BLOB_PUT, blobs.put)
        self.service.add(routes.BLOB_GET, blobs.get)
        self.service.add(routes.BLOB_HEAD, blobs.head)
        self.service.add(routes.BLOB_DELETE, blobs.delete)
        self.service.add(routes.BLOB_VERIFY, blobs.verify)
        self.service.add(routes.HAS, blobs.has)
        self.service.add(routes.INVENTORY, blobs.inventory)
        self.service.add(routes.INFO, self._info)

    async def _info(self, call: Call, message: None) -> m.NodeOverview:
        assert call.caller is not None, "this route is signed"
        reader = self.permits.reader(call.grant, call.caller)
        overview = self.overview()
        if reader.everything:
            membership = self.membership
            overview = msgspec.structs.replace(
                overview, revoked=sorted(membership.revoked), position=membership.position
            )
        return overview

    async def _save_clock(self) -> Progress:
        self._slow_clock.read(self._clock)
        await self._pool.run(self._directory.save_clock, self._slow_clock)
        return Progress.IDLE

    async def _sweep(self) -> Progress:
        """What cut-off puts left in a bucket goes; a disk store has swept its own when it was opened."""
        if not isinstance(self.store, BucketStore):
            return Progress.DONE
        swept = await self.store.sweep()
        if swept:
            _log.info("bucket_swept", puts=swept)
        return Progress.IDLE

    async def _ask_time(self) -> None:
        """Somebody's time is not ours: perhaps the coordinator's clock was set, and we have not heard of it yet."""
        now = self._clock.monotonic()
        if self._asking is None or (self._asking.done() and now - self._asked >= TIME_ASK_S):
            self._asked = now
            self._asking = asyncio.create_task(self.heart.unit())
        await asyncio.wait({self._asking}, timeout=TIME_ANSWER_S)

    def _manifest_changed(self, name: str, etag: Digest | None) -> None:
        if self.outbox is not None:
            self._hints.changed(name, etag)
            self._outbox_worker.wake()

    def _wake_heart(self) -> None:
        self._heart_worker.wake()

    def _set_scrub_interval(self, seconds: float) -> None:
        self._scrub_worker.interval_s = seconds

    def _set_interval(self, seconds: float) -> None:
        self._heart_worker.interval_s = seconds
