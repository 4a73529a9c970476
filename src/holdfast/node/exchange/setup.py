"""Puts a node's exchange together: trust, cache, peers, pulls, manifests, and the routes of all that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.blob import Digest
from holdfast.clock import Clock, Randomness
from holdfast.node.exchange.cache import Cache
from holdfast.node.exchange.follower import Follower
from holdfast.node.exchange.manifest_routes import ManifestRoutes
from holdfast.node.exchange.manifests import Manifests
from holdfast.node.exchange.routes import Exchange
from holdfast.node.exchange.trust import AuthorizedKeys, Trust
from holdfast.node.keeper import Keeper
from holdfast.node.layout import NodeDirectory
from holdfast.node.membership import Membership
from holdfast.node.permits import Permits
from holdfast.peers import discovery
from holdfast.peers.directory import Address, Directory, Finder
from holdfast.peers.neighbours import Find, Neighbours
from holdfast.peers.origin import Origin
from holdfast.peers.pull_through import Puller
from holdfast.peers.settings import PeersSettings
from holdfast.pool import Pool
from holdfast.wire import routes
from holdfast.wire.http import HttpClient
from holdfast.wire.serve import Service
from holdfast.worker import Progress, Worker

CACHE_PART = 10
"""Of the capacity, one part in ten is cache unless the operator says otherwise."""
PULLS = "pulls"


@dataclass(slots=True)
class NodeExchange:
    """Everything of a node that belongs to the exchange. ``start`` and ``stop`` once each."""

    exchange: Exchange
    manifests: Manifests
    workers: list[Worker]
    follower: Follower
    mdns: Callable[[], discovery.Mdns] | None
    _shown: discovery.Mdns | None = None

    async def start(self) -> None:
        """After the service listens: reads the manifests, looks for peers. BadConfig for a damaged authorized_keys."""
        await self.exchange.pool.run(self.exchange.keys.load)
        await self.manifests.start()
        await self.follower.start()
        await self.exchange.start()
        if self.mdns is not None:
            self._shown = self.mdns()
            await self._shown.start()
        for worker in self.workers:
            worker.start()

    async def found_by_mdns(self) -> list[Address]:
        return [] if self._shown is None else list(await self._shown.find())

    async def stop(self) -> None:
        """Ends every pull; the workers are stopped by whoever lists them. May be called twice."""
        if self._shown is not None:
            await self._shown.close()
        await self.exchange.stop()


def make_exchange(
    directory: NodeDirectory,
    *,
    service: Service,
    keeper: Keeper,
    permits: Permits,
    membership: Membership,
    http: HttpClient,
    settings: PeersSettings,
    origin: Origin | None,
    open_read: bool,
    url: Callable[[], str],
    changed: Callable[[str, Digest | None], None],
    clock: Clock,
    randomness: Randomness,
    pool: Pool,
) -> NodeExchange:
    """Adds the routes to ``service``. ``origin`` is closed with the exchange; ``url``: where others reach this node;
    ``changed`` hears of every change of a manifest here."""
    me, files = directory.identity.id, directory.files
    found = Directory(me, clock=clock)
    finders: dict[Finder, Find] = {"list": discovery.listed(settings.peer)}
    if not membership.is_alone:
        finders["registry"] = discovery.registry(http, lambda: membership.targets)
    keys = AuthorizedKeys(directory.path, files=files)
    trust = Trust(
        me=me,
        membership=membership,
        permits=permits,
        keys=keys,
        is_peer=lambda id_: (peer := found.find(id_)) is not None and "registry" in peer.found,
        open_read=open_read,
        stranger=lambda: None if membership.is_alone else exchange.stranger(),
    )
    limit = settings.cache_bytes if keeper.store.alone else 0  # others may want what we would give up
    if limit is None:
        space = keeper.store.space()
        limit = (space.free + space.used if space.capacity is None else space.capacity) // CACHE_PART
    cache = Cache(keeper, limit=limit)
    neighbours = Neighbours(found, http=http, origin=origin, finders=finders, timeout_s=settings.peer_timeout_s)
    puller = Puller(
        neighbours,
        keep=cache.keep,
        directory=directory.path / PULLS,
        files=files,
        pool=pool,
        clock=clock,
        randomness=randomness,
        size_max=settings.pull_bytes_max,
    )
    exchange = Exchange(
        me=me,
        name=directory.record.name,
        keeper=keeper,
        cache=cache,
        trust=trust,
        keys=keys,
        neighbours=neighbours,
        puller=puller,
        settings=settings,
        clock=clock,
        randomness=randomness,
        pool=pool,
    )
    manifests = Manifests(directory.path, keeper=keeper, files=files, pool=pool, clock=clock, changed=changed)
    follower = Follower(settings.follow, manifests, exchange, directory.path, files)
    exchange.checked = follower.checked

    async def settle() -> Progress:
        await manifests.settle()
        return Progress.DONE

    settling = Worker("manifests", settle, clock=clock, randomness=randomness, interval_s=60.0)
    made = NodeExchange(
        exchange,
        manifests,
        [exchange.worker(), settling, *([follower.worker()] if settings.follow else [])],
        follower,
        (lambda: discovery.Mdns(me, directory.record.name, url(), found=lambda: found.troubled()))
        if settings.mdns
        else None,
    )
    if settings.mdns:
        neighbours.add_finder("mdns", made.found_by_mdns)
    handlers = ManifestRoutes(manifests, exchange, follower, pool=pool)
    service.add(routes.MANIFESTS, handlers.listing)
    service.add(routes.MANIFEST_GET, handlers.get)
    service.add(routes.MANIFEST_HEAD, handlers.head)
    service.add(routes.MANIFEST_PUT, handlers.put)
    service.add(routes.MANIFEST_DELETE, handlers.delete)
    service.add(routes.HINT, handlers.hint)
    service.add(routes.STATS, handlers.stats)
    service.add(routes.PULL, exchange.pull)
    service.add(routes.WHERE, exchange.where)
    service.add(routes.PEERS, exchange.peers)
    files.make_directory(directory.path / PULLS)
    for name in files.list(directory.path / PULLS):  # of a run that ended between making a file and unlinking it
        files.unlink(directory.path / PULLS / name)
    return made
