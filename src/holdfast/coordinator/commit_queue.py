"""Group commit: changes that wait at the same moment share one transaction, and so one sync of the disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from holdfast.coordinator.commit import Change, Terms
from holdfast.coordinator.position import Position
from holdfast.coordinator.transaction import Moves, Results, run_batch
from holdfast.errors import HoldfastError, TooManyRequests, Unavailable
from holdfast.metadata.database import Database

BATCH_CHANGES_MAX = 64
BATCH_REFS_MAX = 2000
WAITING_MAX = 1024


class CommitQueue:
    """``submit`` may be called at any time from the event loop; order is that of the calls."""

    def __init__(
        self, database: Database, position: Position, terms: Callable[[], Terms], moved: Callable[[Moves], None]
    ) -> None:
        """``moved`` is told of each batch's placements, in order."""
        self._moved = moved
        self._database = database
        self._position = position
        self._terms = terms
        self._waiting: deque[tuple[Change, asyncio.Future[Results]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, change: Change) -> Results:
        """The results once they are durable. Errors of ``commit.decide``, StaleEpoch, TooManyRequests."""
        if self._closed:
            raise Unavailable("the coordinator is stopping")
        if len(self._waiting) >= WAITING_MAX:
            raise TooManyRequests("too many commits wait; try again in a moment", retry_after=1)
        future: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run(), name="commits")
        return await future

    async def close(self) -> None:
        """Finishes what waits and takes nothing more. May be called twice."""
        self._closed = True
        if self._runner is not None:
            await self._runner

    def _next(self) -> list[tuple[Change, asyncio.Future[Results]]]:
        batch: list[tuple[Change, asyncio.Future[Results]]] = []
        refs = 0
        while self._waiting and len(batch) < BATCH_CHANGES_MAX:
            change, future = self._waiting[0]
            refs += sum(map(len, change.groups))
            if batch and refs > BATCH_REFS_MAX:
                break
            self._waiting.popleft()
            if not future.done():
                batch.append((change, future))
        return batch

    async def _run(self) -> None:
        await asyncio.sleep(0)  # those that arrived in the same turn of the loop go together
        while batch := self._next():
            try:
                self._position.check()
                changes = [change for change, _ in batch]
                done = await self._database.run(run_batch, changes, self._terms(), self._position.commit)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._position.commit = done.commit
            self._moved(done.moves)
            for (_, future), outcome in zip(batch, done.outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, HoldfastError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
