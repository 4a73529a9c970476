"""The outbox of a home, opened when it is first needed: a device that was never offline has none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from holdfast import logs
from holdfast.clock import Clock
from holdfast.errors import HoldfastError, Unavailable
from holdfast.files import Files
from holdfast.outbox.delivery import Deliver
from holdfast.outbox.outbox import Outbox
from holdfast.pool import Pool

LOOK_S = 1.0

_log = logs.get_logger(__name__)


class OutboxDoor:
    """Use from one event loop. Whoever made it closes it."""

    def __init__(
        self,
        directory: Path,
        make: Callable[[Mapping[str, Deliver]], Awaitable[Outbox]],
        *,
        files: Files,
        pool: Pool,
        clock: Clock,
        body_bytes_max: int,
    ) -> None:
        """``make`` opens the outbox in ``directory``, with functions that deliver further kinds. ``body_bytes_max``:
        the longest body that it takes."""
        self.directory = directory
        self.body_bytes_max = body_bytes_max
        self._make = make
        self._files = files
        self._pool = pool
        self._clock = clock
        self._looked: float | None = None
        self._deliver: dict[str, Deliver] = {}
        self._opened: Outbox | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    def deliver(self, kind: str, function: Deliver) -> None:
        """``function`` delivers entries of ``kind``; before the outbox is opened."""
        self._deliver[kind] = function

    async def found(self) -> Outbox | None:
        """The outbox if this home has one; None too if it cannot be opened, which is logged: reads go on.

        One that another process makes is seen within ``LOOK_S``.
        """
        if self._opened is not None:
            return self._opened
        now = self._clock.monotonic()
        if self._looked is not None and now - self._looked < LOOK_S:
            return None
        if await self._pool.run(self._files.size, self.directory / "queue.db") is None:
            self._looked = now
            return None
        try:
            return await self.open()
        except HoldfastError as error:
            _log.warning("outbox_not_opened", directory=str(self.directory), reason=error.detail)
            return None

    async def open(self) -> Outbox:
        """The outbox, made if there is none. Errors as ``Outbox.open``."""
        async with self._opening:
            if self._closed:
                raise Unavailable("the vault is closed")
            if self._opened is None:
                self._opened = await self._make(self._deliver)
            return self._opened

    async def close(self) -> None:
        """What is under way is given back. May be called twice."""
        async with self._opening:
            self._closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()
