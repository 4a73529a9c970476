"""A store whose whole reads are right or fail: what every process wraps around a store that it reads for itself.

Bytes are checked where they are used (docs/design.md, Stores). A whole blob is hashed while it streams and its last
piece is held back until the digest is right. A range cannot be checked by its digest; it comes as ``Unverified``,
which only codec may open (it authenticates every chunk) and resumed transfers may join (they check the whole at the
end). Nothing from a range is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from holdfast.blob import Buffer, Digest
from holdfast.errors import Corrupt
from holdfast.pool import Pool
from holdfast.stores.disk.read import SMALL_BYTES_MAX
from holdfast.stores.protocol import Body, Info, Range, Store, Stored, Traits

OnCorrupt = Callable[[Digest, str], Awaitable[None]]
"""Told the digest and a sentence, before Corrupt is raised; for example to quarantine and to ask another copy."""


class Unverified:
    """A body that nobody has checked yet: a range of a blob."""

    def __init__(self, inner: Body) -> None:
        self.size = inner.size
        self.total = inner.total
        self._inner = inner

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return aiter(self._inner)


class _Verified:
    """A whole body that ends right or with Corrupt."""

    def __init__(self, inner: Body, digest: Digest, pool: Pool, on_corrupt: OnCorrupt | None) -> None:
        self.size = inner.size
        self.total = inner.total
        self._inner = inner
        self._digest = digest
        self._pool = pool
        self._on_corrupt = on_corrupt

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        state, seen = hashlib.sha256(), 0
        piece: Buffer = b""
        async for piece in self._inner:
            seen += len(piece)
            if seen > self.size:
                await self._fail(f"more than its {self.size} bytes came")
            if len(piece) > SMALL_BYTES_MAX:
                await self._pool.run(state.update, piece)
            else:
                state.update(piece)
            if seen == self.size:
                break
            yield piece
        if seen < self.size:
            await self._fail(f"{seen} of its {self.size} bytes came")
        found = Digest(state.digest())
        if found != self._digest:
            await self._fail(f"its bytes have digest {found}")
        if seen:
            yield piece

    async def _fail(self, reason: str) -> None:
        detail = f"a read of {self._digest} is corrupt: {reason}"
        if self._on_corrupt is not None:
            await self._on_corrupt(self._digest, detail)
        raise Corrupt(detail)


class VerifiedStore:
    """Wraps ``inner``; hashing of more than 64 KiB at once goes to ``pool``. Closing it closes ``inner``."""

    def __init__(self, inner: Store, pool: Pool, on_corrupt: OnCorrupt | None = None) -> None:
        self.inner = inner
        self._pool = pool
        self._on_corrupt = on_corrupt

    @property
    def traits(self) -> Traits:
        return replace(self.inner.traits, checked=True)

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        return await self.inner.put(digest, size, source)

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """Whole: checked. With a range: an ``Unverified``; ``get_range`` says so in its type."""
        async with self.inner.get(digest, range_) as body:
            if range_ is None:
                yield _Verified(body, digest, self._pool, self._on_corrupt)
            else:
                yield Unverified(body)

    @asynccontextmanager
    async def get_range(self, digest: Digest, range_: Range) -> AsyncIterator[Unverified]:
        """A range, for those who check it themselves."""
        async with self.inner.get(digest, range_) as body:
            yield Unverified(body)

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        return await self.inner.stat(digests)

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self.inner.delete(digests)

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        return await self.inner.list(after, limit)

    async def close(self) -> None:
        await self.inner.close()
