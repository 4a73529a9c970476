"""The node's cache: blobs that others asked for, up to a limit; the least recently used go first.

What a vault or a manifest keeps is never touched: only rows that the ledger calls ``cache`` are looked at. How recently
a blob was read lies in memory; after a restart the order is that of their coming.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import contextmanager

from holdfast import logs
from holdfast.blob import Buffer, Digest
from holdfast.errors import NoSpace
from holdfast.node.keeper import Keeper

RECENT_MAX = 65_536
PAGE = 256

_log = logs.get_logger(__name__)


class Cache:
    """Use from one event loop; any number of calls at once."""

    def __init__(self, keeper: Keeper, *, limit: int) -> None:
        """``limit``: bytes; 0 keeps nothing."""
        self.limit = limit
        self.evictions = 0
        self._keeper = keeper
        self._recent: OrderedDict[Digest, None] = OrderedDict()
        self._coming = 0
        self._held: Counter[Digest] = Counter()
        self._evicting = asyncio.Lock()

    @property
    def stored(self) -> int:
        """Bytes of what may go."""
        return self._keeper.ledger.shared.get("cache", (0, 0))[1]

    def touch(self, digest: Digest) -> None:
        """It was read just now."""
        self._recent[digest] = None
        self._recent.move_to_end(digest)
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    @contextmanager
    def held(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Meanwhile, what comes of these is kept for a manifest and needs no room in the cache."""
        names = list(digests)
        self._held.update(names)
        try:
            yield
        finally:
            self._held.subtract(names)
            self._held += Counter()  # drops zeros

    async def keep(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        """Keeps a blob that was pulled. NoSpace if it does not fit; what the store raises."""
        if self._held[digest]:
            await self._keeper.put_shared(digest, size, source, "manifest")
            return
        if size > self.limit:
            raise NoSpace(f"{size} bytes are more than the cache takes ({self.limit})")
        self._coming += size
        try:
            await self.make_room(self.stored + self._coming - self.limit)
            await self._keeper.put_shared(digest, size, source, "cache")
        finally:
            self._coming -= size
        self.touch(digest)

    async def yield_space(self, size: int) -> None:
        """Gives up what is needed so that the disk takes ``size`` bytes of something that matters more."""
        lacking = size - self._keeper.store.space().available
        if lacking > 0 and self.stored:
            await self.make_room(lacking)

    async def make_room(self, lacking: int) -> None:
        """Evicts until ``lacking`` bytes are freed or nothing is left that may go."""
        if lacking <= 0:
            return
        async with self._evicting:
            freed, after = 0, 0
            spared: list[Digest] = []
            while freed < lacking:
                page = await self._keeper.ledger.kept_for("cache", after, PAGE)
                for entry in page:
                    if entry.digest in self._recent:
                        spared.append(entry.digest)
                        continue
                    freed += await self._evict(entry.digest)
                    if freed >= lacking:
                        return
                if len(page) < PAGE:
                    break
                after = page[-1].sequence
            here = set(spared)
            for digest in [digest for digest in self._recent if digest in here]:
                if freed >= lacking:
                    return
                freed += await self._evict(digest)

    async def _evict(self, digest: Digest) -> int:
        self._recent.pop(digest, None)
        size = await self._keeper.evict(digest)
        if size:
            self.evictions += 1
            _log.debug("cache_evicted", digest=str(digest), size=size)
        return size
