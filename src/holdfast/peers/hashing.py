"""Hashing beside the event loop: pieces are taken as they come and hashed in the pool, in order, a few behind."""

from __future__ import annotations

import asyncio
import hashlib

from holdfast.blob import Digest
from holdfast.pool import Pool

INLINE_BYTES_MAX = 64 << 10
BEHIND_BYTES_MAX = 4 << 20
"""Bytes that wait to be hashed before whoever brings more has to wait, too."""


class Hashing:
    """SHA-256 of one body. One caller at a time; ``close`` at the end, however it came."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._state = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._behind = 0
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    async def update(self, piece: bytes) -> None:
        """Takes the next piece; returns before it is hashed, unless too much waits."""
        if self._task is None and len(piece) <= INLINE_BYTES_MAX:
            self._state.update(piece)
            return
        self._waiting.append(piece)
        self._behind += len(piece)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="hash")
        while self._behind > BEHIND_BYTES_MAX and self._task is not None:
            self._moved.clear()
            await self._moved.wait()

    async def digest(self) -> Digest:
        """Of all that was taken."""
        if self._task is not None:
            await self._task
        return Digest(self._state.digest())

    async def close(self) -> None:
        """Ends what is under way. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                await self._pool.run(self._absorb, taken)
                self._behind -= sum(map(len, taken))
                self._moved.set()
        finally:
            self._task = None
            self._moved.set()

    def _absorb(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._state.update(piece)
