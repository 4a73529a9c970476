"""Empties the node's trash of what has lain there long enough, on the slow clock (docs/design.md, 6, History)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from holdfast import logs
from holdfast.stores.disk import Purged
from holdfast.worker import Progress

_log = logs.get_logger(__name__)


@runtime_checkable
class TrashStore(Protocol):
    """A store with a trash of its own; ``stores.disk.DiskStore`` is one."""

    async def purge_trash(self, before: float) -> Purged:
        """Removes for good what was deleted before that second of the slow clock."""
        ...


class TrashPurge:
    """``unit`` is a worker's unit. ``keep_s``: how long blobs stay; ``slow_time``: seconds on the slow clock."""

    def __init__(self, store: object, *, slow_time: Callable[[], float], keep_s: float) -> None:
        self._store = store
        self._slow_time = slow_time
        self._keep_s = keep_s

    async def unit(self) -> Progress:
        """One look; DONE for a store that has no trash. A poisoned store is left as it is."""
        if not isinstance(self._store, TrashStore):
            return Progress.DONE
        if getattr(self._store, "poisoned", None) is not None:
            return Progress.IDLE
        purged = await self._store.purge_trash(self._slow_time() - self._keep_s)
        if purged.blobs:
            _log.info("trash_purged", blobs=purged.blobs, size=purged.size)
        return Progress.IDLE
