"""A store made of stores: the local one, peers asked for what they have, and the origin.

What is not here is pulled, given out while it comes, and kept if it can be; a failed keeping fails no read. One flight
per blob at a time, whoever asks; that nobody has a blob is remembered for seconds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from holdfast import logs
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock, Randomness
from holdfast.errors import Corrupt, HoldfastError, NotFound, TooManyRequests
from holdfast.files import Files
from holdfast.peers.flight import Flight
from holdfast.peers.passage import Passage, Room
from holdfast.peers.race import ORIGIN
from holdfast.peers.sources import Askable, Source
from holdfast.pool import Pool
from holdfast.stores.protocol import Body, Info, Range, Store, Stored, Traits

NOBODY_S = 3.0
"""How long it is remembered that nobody has a blob."""
NOBODY_MAX = 65_536
FLIGHTS_MAX = 256
FETCH_TRIES = 3
ABANDONED_BYTES_MAX = 64 << 20
"""A pull that nobody waits for any more goes on if no more than this is missing."""

Keep: TypeAlias = Callable[[Digest, int, AsyncIterable[Buffer]], Awaitable[None]]
"""Keeps a blob that was pulled; whatever it raises of ours is only counted."""

_log = logs.get_logger(__name__)


class Sources(Protocol):
    """Whom to ask now; ``exchange.Neighbours`` is one."""

    def peers(self, digest: Digest) -> Sequence[Askable]:
        """Peers that may have it, likeliest and fastest first."""
        ...

    def last(self, digest: Digest, *, own: bool) -> Sequence[Source]:
        """Who is asked when no peer has it. ``own``: this node asks the origin whoever the owner is."""
        ...


@dataclass(slots=True)
class PullCounts:
    """What was pulled since the start."""

    pulls: int = 0
    peer_blobs: int = 0
    peer_bytes: int = 0
    origin_blobs: int = 0
    origin_bytes: int = 0
    nobody: int = 0
    failed: int = 0
    unkept: int = 0


class PulledBody:
    """A body out of a passage."""

    def __init__(self, pieces: AsyncIterator[Buffer], size: int, total: int) -> None:
        self.size = size
        self.total = total
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return self._pieces


@dataclass(eq=False, slots=True)
class _Pull:
    """A flight and the tasks around it."""

    flight: Flight
    task: asyncio.Task[None]
    waiting: int = 0
    kept: bool = False
    tried_to_keep: bool = False


class Puller:
    """Pulls blobs that are not here. Use from one event loop; any number of calls at once."""

    def __init__(
        self,
        sources: Sources,
        *,
        keep: Keep,
        directory: Path | None,
        files: Files,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
        size_max: int,
    ) -> None:
        """``directory``: where files without a name are made for what passes; None: everything in memory."""
        self.counts = PullCounts()
        self._sources = sources
        self._keep = keep
        self._directory = directory
        self._files = files
        self._pool = pool
        self._clock = clock
        self._randomness = randomness
        self._size_max = size_max
        self._room = Room()
        self._pulls: dict[Digest, _Pull] = {}
        self._nobody: OrderedDict[Digest, tuple[float, HoldfastError, bool]] = OrderedDict()
        self._closed = False

    @property
    def under_way(self) -> int:
        return len(self._pulls)

    def arrived(self, digest: Digest) -> None:
        """The blob came in another way: somebody has it after all."""
        self._nobody.pop(digest, None)

    def holds(self, digest: Digest) -> bool:
        """Is it here whole and right, though perhaps not kept yet?"""
        pull = self._pulls.get(digest)
        if pull is None or not pull.flight.begun.done() or pull.flight.begun.exception() is not None:
            return False
        passage = pull.flight.begun.result()
        return passage.whole and passage.joinable

    @asynccontextmanager
    async def open(self, digest: Digest, range_: Range | None = None, *, narrow: bool = False) -> AsyncIterator[Body]:
        """The blob or a range of it as it comes. ``narrow``: ask no peers and no owner, only the origin.

        NotFound if nobody has it, Unavailable or Corrupt if nobody could send it; a failure in the middle raises.
        """
        async with AsyncExitStack() as stack:
            passage = await self.join(digest, stack, narrow=narrow)
            start, stop = (0, passage.size) if range_ is None else range_.within(passage.size)
            pieces = await stack.enter_async_context(passage.reading(start, stop))
            yield PulledBody(pieces, stop - start, passage.size)

    async def fetch(self, digest: Digest) -> bool:
        """Pulls without reading; True if it is kept now. The errors of ``open``.

        A source that lied is left, so wrong bytes are tried again with another one.
        """
        for left in range(FETCH_TRIES, 0, -1):
            async with AsyncExitStack() as stack:
                try:
                    passage = await self.join(digest, stack, hurried=False)
                    pull = self._pulls.get(digest)
                    async with passage.reading() as pieces:
                        async for _ in pieces:
                            pass
                except Corrupt:
                    if left == 1:
                        raise
                    continue
                if pull is not None:
                    await asyncio.wait([pull.task])
                return pull is None or pull.kept
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Ends what is under way. May be called twice."""
        self._closed = True
        tasks = [pull.task for pull in self._pulls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- flights

    async def join(
        self, digest: Digest, stack: AsyncExitStack, *, narrow: bool = False, hurried: bool = True
    ) -> Passage:
        """A passage that can be read from its start, of a flight that is under way or begins now.

        Whoever closes ``stack`` leaves it. ``hurried``: the first byte is waited for. As for ``open``.
        """
        for attempt in (1, 2):
            self._check_nobody(digest, narrow)
            pull = self._pulls.get(digest)
            if pull is None or pull.task.done() or not self._joinable(pull):
                pull = self._begin(digest, narrow, hurried)
            elif hurried:
                pull.flight.hurry()
            pull.waiting += 1
            stack.callback(self._leave, digest, pull)
            try:
                return await asyncio.shield(pull.flight.begun)
            except HoldfastError:
                if attempt == 2 or narrow or not pull.flight.narrow:
                    raise
        raise AssertionError("unreachable")

    def _joinable(self, pull: _Pull) -> bool:
        begun = pull.flight.begun
        if not begun.done():
            return True
        return begun.exception() is None and begun.result().joinable

    def _begin(self, digest: Digest, narrow: bool, hurried: bool) -> _Pull:
        if self._closed:
            raise NotFound(f"{digest} is not here, and this node is stopping")
        if len(self._pulls) >= FLIGHTS_MAX:
            raise TooManyRequests(f"{FLIGHTS_MAX} blobs are being pulled already", retry_after=1)
        flight = Flight(
            digest,
            askable=() if narrow else self._sources.peers(digest),
            last=self._sources.last(digest, own=narrow),
            pool=self._pool,
            passage=self._make,
            size_max=self._size_max,
            hurried=hurried,
        )
        flight.narrow = narrow
        pull = _Pull(flight, asyncio.ensure_future(self._fly(digest, flight)))
        self._pulls[digest] = pull
        self.counts.pulls += 1
        return pull

    def _make(self, size: int) -> Passage:
        path = None if self._directory is None else self._directory / f"pull-{self._randomness.bytes(8).hex()}"
        return Passage(size, path=path, files=self._files, pool=self._pool, room=self._room)

    async def _fly(self, digest: Digest, flight: Flight) -> None:
        keeping = asyncio.ensure_future(self._keep_passage(digest, flight))
        passage: Passage | None = None
        try:
            passage = await flight.run()
            self._count(flight, passage)
        except HoldfastError as error:
            if isinstance(error, NotFound):
                self._remember(digest, error, flight.narrow)
                self.counts.nobody += 1
            else:
                self.counts.failed += 1
                _log.info("pull_failed", digest=str(digest), reason=error.detail)
        finally:
            try:
                if not flight.begun.done() or flight.begun.exception() is not None:
                    keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            finally:
                keeping.cancel()
                if passage is not None:
                    await passage.release()
                pull = self._pulls.get(digest)
                if pull is not None and pull.flight is flight:
                    del self._pulls[digest]

    async def _keep_passage(self, digest: Digest, flight: Flight) -> None:
        """Keeps it once the whole is right, so that keeping slows no read; the store checks it again."""
        passage = await asyncio.shield(flight.begun)
        pull = self._pulls.get(digest)
        try:
            async with passage.reading() as pieces:
                await passage.settled()
                await self._keep(digest, passage.size, pieces)
        except HoldfastError as error:
            if error is not passage.error:
                self.counts.unkept += 1
                _log.info("pull_not_kept", digest=str(digest), reason=error.detail)
        else:
            if pull is not None:
                pull.kept = True
            self.arrived(digest)

    def _leave(self, digest: Digest, pull: _Pull) -> None:
        pull.waiting -= 1
        if pull.waiting or pull.task.done() or self._pulls.get(digest) is not pull:
            return
        begun = pull.flight.begun
        if begun.done() and begun.exception() is None:
            passage = begun.result()
            if passage.size - passage.written <= ABANDONED_BYTES_MAX:
                return
        pull.task.cancel()

    def _count(self, flight: Flight, passage: Passage) -> None:
        if any(source.entrant.tier == ORIGIN for source in flight.sources):
            self.counts.origin_blobs += 1
            self.counts.origin_bytes += passage.size
        else:
            self.counts.peer_blobs += 1
            self.counts.peer_bytes += passage.size

    # -- what nobody has

    def _check_nobody(self, digest: Digest, narrow: bool) -> None:
        found = self._nobody.get(digest)
        if found is None:
            return
        until, error, only_origin = found
        if self._clock.monotonic() >= until:
            del self._nobody[digest]
        elif narrow or not only_origin:  # that the origin has it not says nothing about the peers
            raise type(error)(error.detail)

    def _remember(self, digest: Digest, error: HoldfastError, narrow: bool) -> None:
        self._nobody[digest] = (self._clock.monotonic() + NOBODY_S, error, narrow)
        self._nobody.move_to_end(digest)
        if len(self._nobody) > NOBODY_MAX:
            self._nobody.popitem(last=False)


class PullThrough:
    """A store that pulls what ``local`` has not. Puts, deletes and lists are the local store's."""

    def __init__(self, local: Store, puller: Puller) -> None:
        self.local = local
        self.puller = puller

    @property
    def traits(self) -> Traits:
        return replace(self.local.traits, checked=False)

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        stored = await self.local.put(digest, size, source)
        self.puller.arrived(digest)
        return stored

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """From here, else pulled. A pulled blob is checked before its last bytes."""
        async with AsyncExitStack() as stack:
            try:
                body = await stack.enter_async_context(self.local.get(digest, range_))
            except NotFound:
                body = await stack.enter_async_context(self.puller.open(digest, range_))
            yield body

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        """What is here; nothing is pulled."""
        return await self.local.stat(digests)

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self.local.delete(digests)

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        return await self.local.list(after, limit)

    async def close(self) -> None:
        await self.puller.close()
        await self.local.close()
