"""Blobs in memory: for tests, demonstrations and small caches. Nothing survives the process."""

from __future__ import annotations

import bisect
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from holdfast.blob import Buffer, Checker, Digest, pieces
from holdfast.errors import BadRequest, DigestMismatch, NoSpace, NotFound
from holdfast.stores.protocol import Body, Info, Range, Stored, Traits, check_limit


class _MemoryBody:
    """A body over bytes at hand."""

    def __init__(self, data: memoryview, total: int) -> None:
        self.size = len(data)
        self.total = total
        self._data = data

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return pieces(self._data)


class MemoryStore:
    """A dictionary of blobs; with ``capacity_bytes`` it refuses what would exceed them, puts under way included."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self._capacity = capacity_bytes
        self._taken = 0  # bytes kept and reserved
        self._blobs: dict[Digest, bytes] = {}
        self._order: list[Digest] = []

    @property
    def traits(self) -> Traits:
        return Traits(durable=False, blob_bytes_max=self._capacity, checked=False)

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """Hashes in the event loop: 0.5 ms for each MiB."""
        if size < 0:
            raise BadRequest(f"a blob cannot have {size} bytes")
        known = self._known(digest, size)
        if known is not None:
            return known
        if self._capacity is not None and self._taken + size > self._capacity:
            raise NoSpace(f"{size} bytes do not fit: {self._taken} of {self._capacity} bytes are taken")
        self._taken += size
        kept = False
        try:
            checker, parts = Checker(digest, size), bytearray()
            async for piece in source:
                checker.update(piece)
                parts += piece
            checker.finish()
            known = self._known(digest, size)  # somebody else may have been quicker
            if known is not None:
                return known
            self._blobs[digest] = bytes(parts)
            bisect.insort(self._order, digest)
            kept = True
        finally:
            if not kept:
                self._taken -= size
        return Stored(digest, size, True)

    def _known(self, digest: Digest, size: int) -> Stored | None:
        found = self._blobs.get(digest)
        if found is None:
            return None
        if len(found) != size:
            raise DigestMismatch(f"{digest} has {len(found)} bytes, {size} were announced")
        return Stored(digest, size, False)

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        found = self._blobs.get(digest)
        if found is None:
            raise NotFound(f"{digest} is not in this store")
        start, stop = (0, len(found)) if range_ is None else range_.within(len(found))
        yield _MemoryBody(memoryview(found)[start:stop], len(found))

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        found = ((digest, self._blobs.get(digest)) for digest in digests)
        return [None if data is None else Info(digest, len(data)) for digest, data in found]

    async def delete(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            data = self._blobs.pop(digest, None)
            if data is not None:
                self._taken -= len(data)
                del self._order[bisect.bisect_left(self._order, digest)]

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        check_limit(limit)
        start = 0 if after is None else bisect.bisect_right(self._order, after)
        return [Info(digest, len(self._blobs[digest])) for digest in self._order[start : start + limit]]

    async def close(self) -> None:
        """Does nothing: what is kept stays until the object goes."""
