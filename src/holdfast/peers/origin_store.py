"""A store as the last source: S3 or NATS, read as ``holdfast store`` reads it and never written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.errors import Unavailable
from holdfast.peers.origin import FIRST_BYTE_S, Resting
from holdfast.stores.protocol import Body, Range, Store


class StoreOrigin(Resting):
    """A store that is opened when it is first asked, so that a node starts while its origin is away."""

    def __init__(self, name: str, open_store: Callable[[], Awaitable[Store]], *, clock: Clock) -> None:
        """``name``: its URL, for people. What ``open_store`` gives is closed with this."""
        super().__init__(name, clock)
        self._open_store = open_store
        self._store: Store | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def open(self, digest: Digest, start: int) -> AsyncIterator[Body]:
        self._check_rest()
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(FIRST_BYTE_S):
                    async with self._opening:
                        if self._store is None:
                            self._store = await self._open_store()
                    range_ = Range(start, None) if start else None
                    body = await stack.enter_async_context(self._store.get(digest, range_))
            except TimeoutError as error:
                if isinstance(error, Unavailable):
                    raise
                raise Unavailable(f"{self.name}: no answer in time") from error
            yield body

    async def close(self) -> None:
        """May be called twice."""
        store, self._store = self._store, None
        if store is not None:
            await store.close()
