"""Brings store and ledger together after a crash, or when the ledger was lost: page by page, while the node serves.

Rows whose blob is missing are marked as gone; blobs without a row are adopted by what their header says. After a clean
stop both agree already and nothing is read. A store that others fill too is compared again and again.
"""

from __future__ import annotations

from holdfast import logs
from holdfast.blob import Digest
from holdfast.node.keeper import Keeper
from holdfast.stores.protocol import LIST_LIMIT_MAX
from holdfast.worker import Progress

_log = logs.get_logger(__name__)


class Reconciler:
    """One pass over the store; ``unit`` is a worker's unit."""

    def __init__(self, keeper: Keeper) -> None:
        self.adopted = 0
        self.missing = 0
        self._keeper = keeper
        self._after: Digest | None = None

    async def unit(self) -> Progress:
        """Compares one page of the store with the ledger; DONE after the last, IDLE if others use the store too."""
        keeper = self._keeper
        held = await keeper.store.list(self._after, LIST_LIMIT_MAX)
        last = held[-1].digest if len(held) == LIST_LIMIT_MAX else None
        rows = set(await keeper.ledger.span(self._after, last))
        for digest in rows - {info.digest for info in held}:
            await keeper.forget(digest)
            self.missing += 1
        for info in held:
            if info.digest not in rows:
                await keeper.adopt(info.digest)
                self.adopted += 1
        if last is not None:
            self._after = last
            return Progress.THROTTLED
        await keeper.ledger.counted()
        keeper.reconciled = True
        self._after = None
        if self.adopted or self.missing:
            level = _log.warning if keeper.store.alone else _log.info
            level("ledger_reconciled", adopted=self.adopted, missing=self.missing)
            self.adopted = self.missing = 0
        return Progress.DONE if keeper.store.alone else Progress.IDLE
