"""What the tests of the outbox share: an opener of queues, a clock that can be stepped, and a target in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path

from holdfast.blob import Buffer
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.files import Files, OsFiles
from holdfast.outbox.entry import Entry, NewEntry
from holdfast.outbox.next_step import Lane
from holdfast.outbox.queue.queue import Queue
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import ThreadPool

SEED = bytes(range(32))


class SteppedClock(SystemClock):
    """The machine's clocks, with a wall clock that a test sets."""

    step_s = 0.0

    def now(self) -> float:
        return super().now() + self.step_s


class QueueRig:
    """Opens queues in one directory, as so many processes would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = SteppedClock()
        self.files: Files = OsFiles()
        self.settings = OutboxSettings(lease_s=30.0)
        self.randomness = SeededRandomness(7)
        self._opened: list[tuple[Queue, ThreadPool, ThreadPool]] = []

    async def open(self, seed: bytes = SEED) -> Queue:
        pool, thread = ThreadPool(2), ThreadPool(1)
        try:
            queue = await Queue.open(
                self.directory,
                seed=seed,
                clock=self.clock,
                randomness=self.randomness,
                files=self.files,
                pool=pool,
                thread=thread,
                settings=self.settings,
            )
        except BaseException:
            pool.close()
            thread.close()
            raise
        self._opened.append((queue, pool, thread))
        return queue

    async def close(self) -> None:
        for queue, pool, thread in self._opened:
            await queue.close()
            pool.close()
            thread.close()
        self._opened.clear()


def entry(key: str, *more: str, target: str = "http://one", purpose: str = "update", **payload: object) -> NewEntry:
    return NewEntry("http", purpose, (key, *more), target, payload)


async def body_of(found: Entry) -> bytes:
    assert found.open is not None
    return b"".join([bytes(piece) async for piece in found.open()])


async def claim_all(queue: Queue, limit: int = 100) -> list[tuple[Lane, Entry]]:
    found = []
    for lane, view in (await queue.tries.lanes(["http", "ref"], limit)).items():
        if view.due:
            found += [(lane, claimed) for claimed in await queue.tries.claim(lane, limit)]
    return found


async def in_pieces(data: bytes, size: int) -> AsyncIterable[Buffer]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
