"""How much an outbox may hold, and the refusal when it is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.errors import NoSpace
from holdfast.files import Files
from holdfast.pool import Pool

FREE_SHARE = 10
"""The outbox takes at most one part in so many of what is free (with what it holds)."""
CRITICAL_PERCENT = 20
"""So much of its room only critical entries may use."""
LOOK_EVERY_BYTES = 64 << 20
"""Bytes between two looks at the disk."""


def limit(total_max: int, free: int, held: int, *, critical: bool) -> int:
    """Bytes that all bodies together may have. Pure."""
    room = min(total_max, (free + held) // FREE_SHARE)
    return room if critical else room * (100 - CRITICAL_PERCENT) // 100


class Space:
    """Bytes held and promised by one process. Use from one event loop.

    ``held`` is set by whoever knows the table; other processes' promises are not seen, and their small entries only
    now and then, so each may go over the limit by what it has under way and about a MiB.
    """

    def __init__(self, directory: Path, *, total_max: int, files: Files, pool: Pool) -> None:
        self.held = 0
        self._directory = directory
        self._total_max = total_max
        self._files = files
        self._pool = pool
        self._promised = 0
        self._free = 0
        self._since_look = LOOK_EVERY_BYTES
        self._looking = asyncio.Lock()

    async def reserve(self, size: int, *, critical: bool) -> None:
        """Promises ``size`` bytes until ``release``; NoSpace if they are too many."""
        self._promised += size
        self._since_look += size
        try:
            if self._since_look >= LOOK_EVERY_BYTES:
                async with self._looking:
                    if self._since_look >= LOOK_EVERY_BYTES:
                        self._free = (await self._pool.run(self._files.space, self._directory)).free
                        self._since_look = 0
            room = limit(self._total_max, self._free, self.held, critical=critical)
            if self.held + self._promised > room:
                raise NoSpace(
                    f"the outbox is full: it holds {self.held} of at most {room} bytes"
                    + ("" if critical else " for what is not critical")
                    + "; deliver or drop something first (holdfast outbox flush, holdfast outbox ls)"
                )
        except BaseException:
            self._promised -= size
            raise

    def release(self, size: int) -> None:
        """The bytes are in the table now, or were given up."""
        self._promised -= size
