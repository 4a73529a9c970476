"""Is this coordinator still the one that works? Where another may wait for its place, it answers only while it is sure.

What is written is fenced by the database itself (``metadata.postgresql``). But plans, heartbeats and status come from
memory: a coordinator that was stopped for a while, or is cut off from its database, would keep nodes and devices from
finding the one that works now. So it shows all the time that it is alive, and refuses everything when that fails.
"""

from __future__ import annotations

import asyncio

from holdfast import logs
from holdfast.clock import Clock
from holdfast.errors import HoldfastError, Standby
from holdfast.metadata.database import Database
from holdfast.metadata.postgresql import show_alive
from holdfast.worker import Progress

INTERVAL_S = 2.0
SURE_S = 8.0
"""Less than a session outlives its coordinator: HUNG_S, or what the server needs to see that the other side is gone."""

_log = logs.get_logger(__name__)


class Hold:
    """``unit`` is a worker's unit; used in the event loop."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.lost = asyncio.Event()
        """Set when another coordinator has taken this one's place."""
        self._database = database
        self._clock = clock
        self._sure = clock.monotonic()
        self._looking = asyncio.Lock()

    async def unit(self) -> Progress:
        """Shows the database that this coordinator is alive."""
        began = self._clock.monotonic()
        try:
            await self._database.run(show_alive)
            self._sure = began
        except HoldfastError as error:
            if self._database.overtaken and not self.lost.is_set():
                _log.error("coordinator_overtaken", reason=error.detail)
                self.lost.set()
        return Progress.IDLE

    async def refused(self) -> HoldfastError | None:
        """As ``refusal``; but who was merely stopped for a moment looks at the database before it refuses anybody."""
        if self.refusal() is not None and not self._database.overtaken:
            looking = self._looking.locked()
            async with self._looking:
                if not looking:  # those who waited take what was found
                    await self.unit()
        return self.refusal()

    def refusal(self) -> HoldfastError | None:
        """Why nothing may be answered now, None as long as this coordinator is sure of its place."""
        if not self._database.shared:
            return None
        if self._database.overtaken:
            return Standby("another coordinator works in this one's place now: ask at its address")
        if self._clock.monotonic() - self._sure > SURE_S:
            return Standby("this coordinator has not reached its database for a while: ask another one, or later")
        return None
