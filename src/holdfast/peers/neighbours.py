"""A node's sources now: its healthy peers, the owner of a blob, the origin; and the checks that keep them known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.errors import HoldfastError, Unavailable
from holdfast.peers.directory import Address, Directory, Finder, Peer
from holdfast.peers.origin import Origin
from holdfast.peers.sources import Askable, OwnerSource, PeerSource, Source
from holdfast.wire.http import HttpClient
from holdfast.worker import Progress

CHECKS_AT_ONCE = 16
EAGER_ROUNDS = 10
"""Rounds of checks that follow soon after one another when peers are away that were not away before."""

Find: TypeAlias = Callable[[], Awaitable[Sequence[Address]]]
"""One way of finding peers: all that it knows now. Unavailable if it cannot be asked; then what was known stays."""

_log = logs.get_logger(__name__)


class Neighbours:
    """Sources for a puller. Use from one event loop."""

    def __init__(
        self,
        directory: Directory,
        *,
        http: HttpClient,
        origin: Origin | None,
        finders: Mapping[Finder, Find],
        timeout_s: float = 10.0,
    ) -> None:
        self.directory = directory
        self.origin = origin
        self.http = http
        self._finders = dict(finders)
        self._timeout_s = timeout_s
        self._sources: dict[Id, PeerSource] = {}
        self._away: frozenset[object] = frozenset()
        self._eager = EAGER_ROUNDS

    def add_finder(self, found: Finder, find: Find) -> None:
        """Another way of finding peers."""
        self._finders[found] = find

    # -- sources

    def peers(self, digest: Digest) -> Sequence[Askable]:
        return [self.source(peer) for peer in self.directory.to_ask(digest)]

    def last(self, digest: Digest, *, own: bool) -> Sequence[Source]:
        if self.origin is None:
            return ()
        owner = None if own else self.directory.owner(digest)
        if owner is None:
            return (self.origin,)
        return (OwnerSource(self.source(owner), http=self.http, directory=self.directory), self.origin)

    def source(self, peer: Peer) -> PeerSource:
        """The one source of a peer, so that questions to it go together."""
        found = self._sources.get(peer.id)
        if found is None or found.peer is not peer:
            found = self._sources[peer.id] = PeerSource(peer, http=self.http, directory=self.directory)
        return found

    async def holders(self, digest: Digest) -> list[Peer]:
        """Which healthy peers say that they have it."""
        sources = [self.source(peer) for peer in self.directory.usable(patient=True)]
        answers = await asyncio.gather(*(source.has(digest) for source in sources), return_exceptions=True)
        return [source.peer for source, answer in zip(sources, answers, strict=True) if answer is True]

    async def anywhere(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of up to 4,096 that some healthy peer says that it has."""
        sources = [self.source(peer) for peer in self.directory.usable(patient=True)]
        answers = await asyncio.gather(*(source.has_all(digests) for source in sources), return_exceptions=True)
        found: set[Digest] = set()
        for answer in answers:
            if isinstance(answer, list):
                found |= {digest for digest, bit in zip(digests, answer, strict=True) if bit}
            elif not isinstance(answer, HoldfastError):
                raise answer
        return found

    # -- checks

    async def unit(self) -> Progress:
        """Looks for peers in every way, then checks each; a worker's unit."""
        for found, find in self._finders.items():
            try:
                self.directory.learn(found, await find())
            except Unavailable as error:
                _log.info("peers_not_found", by=found, reason=error.detail)
        gate = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def one(work: Awaitable[None]) -> None:
            async with gate:
                await work

        checks = [self._meet(address) for address in list(self.directory.unknown.values())]
        checks += [self._check(peer) for peer in self.directory.all()]
        await asyncio.gather(*(one(check) for check in checks))
        for gone in [id_ for id_ in self._sources if self.directory.find(id_) is None]:
            await self._sources.pop(gone).close()
        return self._next()

    def _next(self) -> Progress:
        """Soon again while somebody is newly away, but not for ever."""
        away: frozenset[object] = frozenset(self.directory.unknown)
        away |= {peer.id for peer in self.directory.all() if not peer.healthy and not peer.lies}
        if away - self._away:
            self._eager = EAGER_ROUNDS
        self._away = away
        if not away or not self._eager:
            return Progress.IDLE
        self._eager -= 1
        return Progress.THROTTLED

    async def _meet(self, address: Address) -> None:
        """Finds out who answers at an address of the list."""
        began = asyncio.get_running_loop().time()
        try:
            health = await self.http.health(address.url, timeout_s=self._timeout_s)
        except HoldfastError:
            return
        peer = self.directory.meet("list", health.id, address.url, health.name)
        if peer is not None and health.role == "node":
            self.directory.checked(peer, asyncio.get_running_loop().time() - began)

    async def _check(self, peer: Peer) -> None:
        began = asyncio.get_running_loop().time()
        try:
            health = await self.http.health(peer.url, timeout_s=self._timeout_s)
        except HoldfastError as error:
            if peer.healthy:
                self.directory.failed(peer, error.detail)
            else:
                peer.reason = error.detail
            return
        if health.id != peer.id:
            self.directory.failed(peer, f"{peer.url} is now somebody else ({health.id.short})")
            return
        peer.name = health.name or peer.name
        self.directory.checked(peer, asyncio.get_running_loop().time() - began)

    async def close(self) -> None:
        """Ends what is under way. May be called twice."""
        for source in self._sources.values():
            await source.close()
        if self.origin is not None:
            await self.origin.close()
