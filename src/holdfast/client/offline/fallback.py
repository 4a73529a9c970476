"""Where a write goes: to the network, or to the outbox if the network is away or earlier writes of its names wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from holdfast import logs
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.client.offline.queued_names import QueuedNames
from holdfast.client.offline.writes import OfflineWrites
from holdfast.errors import HoldfastError, NotFound, Unavailable
from holdfast.outbox.delivery import Done, Summary
from holdfast.outbox.outbox import Outbox

T = TypeVar("T")

QueuedCallback: TypeAlias = Callable[[HoldfastError | None], None]
"""Hears that a write went to the outbox, and why; None: because it was asked for, or because earlier ones wait."""

_log = logs.get_logger(__name__)


class Fallback:
    """Of one vault; ``writes`` None: it has no outbox, and everything goes to the network."""

    def __init__(self, door: OutboxDoor | None, queued: QueuedNames, writes: OfflineWrites | None) -> None:
        self.door = door
        self.writes = writes
        self._queued = queued

    async def outbox(self) -> Outbox | None:
        """None if nothing was ever queued."""
        return None if self.door is None else await self.door.found()

    async def open(self) -> Outbox:
        """The outbox, made if there is none. Unavailable for a vault without one."""
        if self.door is None:
            raise Unavailable("this vault has no outbox")
        return await self.door.open()

    async def flush(self, progress: Callable[[Done], None] | None = None) -> Summary:
        """Tries to deliver all that waits, once."""
        outbox = await self.outbox()
        return Summary() if outbox is None else await outbox.flush(progress, now=True)

    async def write(
        self,
        names: Sequence[str],
        offline: bool | None,
        online: Callable[[], Awaitable[T]],
        queue: Callable[[OfflineWrites], Awaitable[T]],
        on_queued: QueuedCallback | None,
        may_queue: Callable[[], bool] = lambda: True,
        *,
        below: bool = True,
    ) -> T:
        """``online()``, or ``queue(...)`` if it is Unavailable and ``may_queue()`` then, or something waits before it.

        ``offline``: True queues at once; False never, and is Unavailable where something waits. ``below``: what waits
        below the names counts, too.
        """
        writes = self.writes
        if writes is None:
            if offline:
                raise Unavailable("this vault has no outbox")
            return await online()
        trouble: Unavailable | None = None
        if not offline:
            behind = await self._stand_behind(names, below)
            if behind and offline is False:
                raise Unavailable(
                    f"earlier writes of {behind} wait in the outbox and go first; holdfast outbox ls shows why"
                )
            if not behind:
                try:
                    return await online()
                except Unavailable as error:
                    if offline is False or not may_queue():
                        raise
                    trouble = error
        try:
            done = await queue(writes)
        except NotFound:
            if trouble is not None:  # not known to this device, and nobody else could be asked
                raise trouble from None
            raise
        if on_queued is not None:
            on_queued(trouble)
        return done

    async def _stand_behind(self, names: Sequence[str], below: bool) -> str:
        """The first of ``names`` for which, or below which, writes still wait although they were tried just now."""
        if not await self._waits(names, below):
            return ""
        try:
            await self.flush()
        except HoldfastError as error:
            _log.warning("outbox_not_flushed", reason=error.detail)
        return await self._waits(names, below)

    async def _waits(self, names: Sequence[str], below: bool) -> str:
        for name in names:
            if await self._queued.waits(name) or (below and await self._queued.any_below(name)):
                return name
        return ""
