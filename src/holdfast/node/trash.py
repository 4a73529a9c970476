"""Empties the node's trash of what has lain there long enough, on the slow clock (docs/design.md, 6, History).

A disk keeps its trash itself. In a bucket a deleted blob stays where it is, and its row says since when it is trash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from holdfast import logs
from holdfast.stores.disk.store import Purged
from holdfast.worker import Progress

if TYPE_CHECKING:
    from holdfast.node.keeper import Keeper

PURGE_AT_ONCE = 1000

_log = logs.get_logger(__name__)


@runtime_checkable
class TrashStore(Protocol):
    """A store with a trash of its own; ``stores.disk.DiskStore`` is one."""

    async def purge_trash(self, before: float) -> Purged:
        """Removes for good what was deleted before that second of the slow clock."""
        ...


class TrashPurge:
    """``unit`` is a worker's unit. ``keep_s``: how long blobs stay; ``slow_time``: seconds on the slow clock."""

    def __init__(self, keeper: Keeper, *, slow_time: Callable[[], float], keep_s: float) -> None:
        self._keeper = keeper
        self._slow_time = slow_time
        self._keep_s = keep_s

    async def unit(self) -> Progress:
        """One look. A poisoned store is left as it is."""
        store, before = self._keeper.store, self._slow_time() - self._keep_s
        if store.poisoned is not None:
            return Progress.IDLE
        if isinstance(store, TrashStore):
            purged = await store.purge_trash(before)
        else:
            purged = await self._purge_rows(before)
        if purged.blobs:
            _log.info("trash_purged", blobs=purged.blobs, size=purged.size)
        return Progress.IDLE

    async def _purge_rows(self, before: float) -> Purged:
        sizes = [
            await self._keeper.purge(entry.digest, before)
            for entry in await self._keeper.ledger.trashed(before, PURGE_AT_ONCE)
        ]
        return Purged(len(sizes), sum(sizes))
