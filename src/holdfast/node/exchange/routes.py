"""The node's side of the exchange between nodes: what is pulled, kept and told, for the routes of blobs and its own.

Only a client's request starts a pull. A request of another node is answered from the local store or, by a blob's owner,
also from the origin (docs/design.md, Pull-through).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.auth.signing import content_digest
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock, Randomness, shuffled
from holdfast.errors import Denied, HoldfastError, NotFound, TooLarge
from holdfast.node.exchange.cache import Cache
from holdfast.node.exchange.trust import AuthorizedKeys, Trust
from holdfast.node.keeper import Keeper
from holdfast.node.ledger.rows import SHARED, Entry
from holdfast.node.permits import Reader
from holdfast.peers.directory import Directory, Peer
from holdfast.peers.neighbours import Neighbours
from holdfast.peers.pull_through import Puller
from holdfast.peers.settings import PeersSettings
from holdfast.pool import Pool
from holdfast.stores.side_by_side import side_by_side
from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m
from holdfast.wire.serve import Call, StreamReply, parse_range
from holdfast.worker import Progress, Worker

STRANGER_S = 2.0
"""Seconds between looks at the registry because somebody unknown asks."""
EAGER_S = 2.0
"""Seconds between checks while a peer is newly away."""
JOBS_AT_ONCE = 8
JOBS_MAX = 65_536
JOB_LIFE_S = 30.0
"""How long a blob goes on being brought here when nobody asks for it again."""
WHERE_S = 5.0

_log = logs.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    """A blob that somebody wants here."""

    task: asyncio.Task[None]
    until: float
    hold: bool
    error: HoldfastError | None = None


@dataclass(slots=True)
class ClientCounts:
    """What clients, not other nodes, were given of what no vault owns."""

    local: int = 0
    local_bytes: int = 0


@dataclass(slots=True)
class Exchange:
    """Use from one event loop; ``start`` and ``stop`` once each."""

    me: Id
    name: str
    keeper: Keeper
    cache: Cache
    trust: Trust
    keys: AuthorizedKeys
    neighbours: Neighbours
    puller: Puller
    settings: PeersSettings
    clock: Clock
    randomness: Randomness
    pool: Pool
    counts: ClientCounts = field(default_factory=ClientCounts)
    since: float = 0.0
    checked: Callable[[], None] = lambda: None
    """Called after each check of the peers."""
    _jobs: dict[Digest, _Job] = field(default_factory=dict)
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JOBS_AT_ONCE))
    _worker: Worker | None = None
    _stranger_at: float = float("-inf")

    # -- life

    @property
    def directory(self) -> Directory:
        return self.neighbours.directory

    def worker(self) -> Worker:
        """Finds and checks peers."""
        if self._worker is None:
            self._worker = Worker(
                "peers",
                self.unit,
                clock=self.clock,
                randomness=self.randomness,
                interval_s=self.settings.peer_check_s,
                throttle_s=EAGER_S,
            )
            self.directory.troubled = self._worker.wake
        return self._worker

    def stranger(self) -> None:
        """Somebody unknown asked: perhaps the registry knows by now who it is."""
        now = self.clock.monotonic()
        if self._worker is not None and now - self._stranger_at >= STRANGER_S:
            self._stranger_at = now
            self._worker.wake()

    async def unit(self) -> Progress:
        """One look at the keys, the peers and the jobs that nobody asks for any more."""
        await self.pool.run(self.keys.reload)
        now = self.clock.monotonic()
        for digest in [digest for digest, job in self._jobs.items() if now > job.until]:
            self._jobs.pop(digest).task.cancel()
        progress = await self.neighbours.unit()
        self.checked()
        return progress

    async def start(self) -> None:
        self.since = self.clock.now()

    async def stop(self) -> None:
        """Ends every pull. May be called twice."""
        tasks = [job.task for job in self._jobs.values()]
        self._jobs.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.puller.close()
        await self.neighbours.close()

    # -- for the routes of blobs

    def served(self, call: Call, entry: Entry, size: int) -> None:
        """A blob that was here was given away."""
        if entry.kept in SHARED:
            self.cache.touch(entry.digest)
            if "cache-control" not in call.headers:
                self.counts.local += 1
                self.counts.local_bytes += size

    async def pulled(self, call: Call, digest: Digest, reader: Reader) -> StreamReply:
        """A blob that is not here, as it comes; NotFound if ``reader`` may not have it looked for."""
        if reader.pulls == "no" and not self.passes(digest, reader):
            raise NotFound(f"{digest} is not here, or not yours to read")
        stack = AsyncExitStack()
        try:
            passage = await self.puller.join(digest, stack, narrow=reader.pulls == "origin")
            range_ = parse_range(call.headers.get("range"), passage.size)
            start, stop = range_ or (0, passage.size)
            pieces = await stack.enter_async_context(passage.reading(start, stop))
        except BaseException:
            await stack.aclose()
            raise
        headers = {"repr-digest": content_digest(digest)}
        return StreamReply(pieces, passage.size, range_, headers, done=stack.aclose)

    def passes(self, digest: Digest, reader: Reader) -> bool:
        """Is a blob that is being kept just now as good as here for ``reader``?"""
        return reader.shared and self.puller.holds(digest)

    async def put(self, call: Call, digest: Digest, size: int, body: AsyncIterable[Buffer]) -> bool:
        """Takes a blob for a manifest that will name it; True if it is new. Denied, NoSpace."""
        self.trust.require_write(call)
        if size > self.settings.pull_bytes_max:
            raise TooLarge(f"this node takes blobs of at most {self.settings.pull_bytes_max} bytes")
        await self.cache.yield_space(size)
        new = await self.keeper.put_shared(digest, size, body, "manifest")
        self.puller.arrived(digest)
        return new

    async def take(self, digest: Digest, size: int, body: AsyncIterable[Buffer]) -> None:
        """Keeps a blob in the cache that came by a gateway, which has judged its client. NoSpace, DigestMismatch."""
        await self.cache.keep(digest, size, body)
        self.puller.arrived(digest)

    # -- routes of its own

    async def pull(self, call: Call, message: x.PullRequest) -> x.PullAnswer:
        """Brings blobs here, several at a time and in an order of this node's own, while somebody asks for them."""
        reader = self.trust.require_shared(call)
        if reader.pulls != "all":
            raise Denied("this caller may not have blobs brought here")
        if message.hold:
            self.trust.require_write(call)
        wanted = list(dict.fromkeys(message.digests))
        self._want(shuffled(wanted, self.randomness), message.hold)
        jobs = [self._jobs[digest].task for digest in wanted if digest in self._jobs]
        if jobs and message.wait:
            await asyncio.wait(jobs, timeout=message.wait)
        here = await self.keeper.find_all(wanted)
        nobody, reason = [], ""
        for digest in wanted:
            job = self._jobs.get(digest)
            if job is not None and job.task.done():
                del self._jobs[digest]
                if isinstance(job.error, NotFound):
                    nobody.append(digest)
                elif job.error is not None:
                    reason = job.error.detail
        bits = [self._is_here(here.get(digest), message.hold) for digest in message.digests]
        return x.PullAnswer(bitmap=m.bitmap(bits), nobody=nobody, reason=reason)

    def _is_here(self, entry: Entry | None, hold: bool) -> bool:
        if entry is None or not entry.here:
            return False
        return entry.kept in ("manifest", "vault") if hold else entry.kept in SHARED

    def _want(self, digests: Sequence[Digest], hold: bool) -> None:
        until = self.clock.monotonic() + JOB_LIFE_S
        for digest in digests:
            job = self._jobs.get(digest)
            if job is not None and (job.hold or not hold):
                job.until = until
            elif len(self._jobs) < JOBS_MAX:
                if job is not None:
                    job.task.cancel()
                self._jobs[digest] = job = _Job(asyncio.ensure_future(self._bring(digest, hold)), until, hold)

    async def _bring(self, digest: Digest, hold: bool) -> None:
        try:
            async with self._gate:
                if hold:
                    await self._hold(digest)
                else:
                    entry = await self.keeper.find(digest)
                    if entry is None or entry.kept not in SHARED:
                        await self.puller.fetch(digest)
        except HoldfastError as error:
            job = self._jobs.get(digest)
            if job is not None:
                job.error = error

    async def hold_all(self, digests: Sequence[Digest]) -> None:
        """Brings blobs here for a manifest that will name them, several at a time; what has come stays, whatever fails.

        NotFound, NoSpace, Unavailable for the first that could not be had.
        """

        async def hold(digest: Digest) -> None:
            async with self._gate:
                await self._hold(digest)

        await side_by_side(JOBS_AT_ONCE, digests, hold)

    async def _hold(self, digest: Digest) -> None:
        with self.cache.held([digest]):
            if await self.keeper.hold(digest) is None:
                await self.puller.fetch(digest)
                await self.keeper.hold(digest)

    async def where(self, call: Call, message: None) -> x.BlobPlaces:
        """Here, at which peers, at the origin."""
        digest = Digest.parse(call.path["digest"])
        reader = self.trust.require_shared(call)
        entry = await self.keeper.find(digest)
        holders, origin = await asyncio.gather(self.neighbours.holders(digest), self._at_origin(digest))
        return x.BlobPlaces(
            local=entry is not None and reader.allows(entry),
            peers=[self.holder(peer) for peer in sorted(holders, key=lambda peer: (peer.name, peer.id))],
            origin=origin,
        )

    async def _at_origin(self, digest: Digest) -> bool | None:
        if self.neighbours.origin is None:
            return None
        try:
            async with asyncio.timeout(WHERE_S), self.neighbours.origin.open(digest, 0):
                return True
        except NotFound:
            return False
        except (HoldfastError, TimeoutError):
            return None

    async def peers(self, call: Call, message: None) -> x.PeerList:
        self.trust.require_shared(call)
        return x.PeerList(
            peers=[
                x.PeerInfo(
                    id=peer.id, name=peer.name, address=peer.url, found=sorted(peer.found), healthy=peer.healthy,
                    since=peer.since, reason=peer.reason, latency=peer.latency_s, hit_rate=peer.hit_rate,
                    asked=peer.asked, hits=peer.hits, served=peer.served_bytes, lies=peer.lies,
                )
                for peer in self.directory.all()
            ],
            unknown=sorted(self.directory.unknown),
        )  # fmt: skip

    def stats(self, manifests: x.Tally) -> x.ExchangeStats:
        """All figures; those of manifests are the caller's."""
        ledger, pulls = self.keeper.ledger, self.puller.counts
        held, cached = ledger.shared.get("manifest", (0, 0)), ledger.shared.get("cache", (0, 0))
        peers = self.directory.all()
        origin = self.neighbours.origin
        return x.ExchangeStats(
            nodes=x.Tally(total=1 + len(peers), healthy=1 + sum(peer.healthy for peer in peers)),
            manifests=manifests,
            blobs=held[0] + cached[0],
            stored=held[1] + cached[1],
            cached=cached[1],
            cache_limit=self.cache.limit,
            hits=x.Hits(
                local=self.counts.local,
                peer=pulls.peer_blobs,
                origin=pulls.origin_blobs,
                nobody=pulls.nobody,
                failed=pulls.failed,
            ),
            saved=self.counts.local_bytes + pulls.peer_bytes,
            from_peers=pulls.peer_bytes,
            from_origin=pulls.origin_bytes,
            origin="" if origin is None else origin.name,
            origin_reason="" if origin is None else origin.counters.reason,
            pulling=self.puller.under_way,
            since=self.since,
        )

    def holder(self, peer: Peer | None = None) -> x.Holder:
        """A peer, or this node itself."""
        return x.Holder(id=self.me, name=self.name) if peer is None else x.Holder(id=peer.id, name=peer.name)
