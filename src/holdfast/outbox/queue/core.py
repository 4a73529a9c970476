"""What all parts of the queue share: its one thread, its sealed records, and changes that share a sync.

A change waits until the one before it is on the disk; all that have come meanwhile then go in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from holdfast.clock import Clock, Randomness
from holdfast.errors import HoldfastError, Unavailable
from holdfast.files import Files
from holdfast.outbox.queue.alive import Alive, boot_id
from holdfast.outbox.queue.bodies import Bodies
from holdfast.outbox.queue.file import QueueFile
from holdfast.outbox.queue.records import Records
from holdfast.outbox.queue.space import Space
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import Pool
from holdfast.stores.disk.health import DiskHealth

GROUP_MAX = 256
"""Changes in one transaction."""

Item = TypeVar("Item")
T = TypeVar("T")
_Change: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]


_change = itemgetter(0)


class QueueCore:
    """The parts of one open queue. Use from one event loop."""

    def __init__(
        self,
        directory: Path,
        file: QueueFile,
        *,
        clock: Clock,
        randomness: Randomness,
        files: Files,
        pool: Pool,
        thread: Pool,
        settings: OutboxSettings,
    ) -> None:
        """``thread`` has one worker and serves nothing else."""
        self.directory = directory
        self.settings = settings
        self.file = file
        self.seals = file.seals
        self.clock = clock
        self.randomness = randomness
        self.files = files
        self.pool = pool
        self.health = DiskHealth(str(directory))
        self.space = Space(directory, total_max=settings.total_bytes_max, files=files, pool=pool)
        self.bodies = Bodies(directory / "bodies", files=files, pool=pool, health=self.health, space=self.space)
        self.records = Records(file, file.seals, self.bodies, self.ask)
        self.alive = Alive(directory / "alive", files, randomness)
        self.boot = boot_id(files, randomness)
        self.process: bytes | None = None
        self._thread = thread
        self._waiting: list[tuple[_Change, Any, asyncio.Future[Any]]] = []
        self._writing = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._next: asyncio.Task[None] | None = None
        self._closed = False

    async def token(self) -> bytes:
        """This process's 8 bytes; others see from then on that it lives."""
        if self.process is None:
            self.process = await self._thread.run(self.alive.token)
        return self.process

    async def ask(self, question: Callable[[], T]) -> T:
        """``question`` in the queue's thread; Unavailable once closed."""
        if self._closed:
            raise Unavailable("the outbox is closed")
        return await self._thread.run(self.file.asked, question)

    async def note(self, change: Callable[[], T]) -> T:
        """``change`` in a transaction of its own that a power cut may undo, a crash may not: for claims."""

        def write() -> T:
            with self.file.change(durable=False):
                return change()

        return await self._thread.run(write)

    async def write(self, change: Callable[[], T]) -> T:
        """``change`` in a durable transaction that others may share; undone alone if it raises one of our errors."""
        return await self.write_together(lambda _: (change(),), None)

    async def write_together(self, change: Callable[[Sequence[Item]], Sequence[T]], item: Item) -> T:
        """As ``write``, for what is cheaper done for many: ``change`` gets all neighbouring items that wait for it, in
        their order, and gives as many results. They are undone together, so they all hear an error that it raises. It
        keeps ``space.held`` right itself, unless ``item`` is None."""
        if self._closed:
            raise Unavailable("the outbox is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, item, done))
        if not self._writing:
            await self._write_group()
        return await done

    async def _write_group(self) -> None:
        """Whoever finds nobody writing writes for all that wait; what comes meanwhile gets a task of its own."""
        group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
        self._writing = True
        self._quiet.clear()
        results: list[Any] = []
        try:
            await self._thread.run(self._apply, group, results)
        except Exception as error:  # no thread any more
            results += [error] * len(group)
        finally:  # also when the caller was cancelled: the thread has ended then, and others wait for their results
            results += [Unavailable("the outbox was closed")] * (len(group) - len(results))
            for (_, _, done), result in zip(group, results, strict=True):
                if done.done():
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                    done.exception()  # whoever was cancelled does not look at it
                else:
                    done.set_result(result)
            if self._waiting or len(group) > 1:  # writers at once come again at once: they go together
                self._next = asyncio.get_running_loop().create_task(self._write_next(), name="outbox")
            else:
                self._writing = False
                self._quiet.set()

    async def _write_next(self) -> None:
        if self._waiting:
            await self._write_group()
        else:
            self._writing = False
            self._quiet.set()

    def _apply(self, group: Sequence[tuple[_Change, Any, object]], results: list[Any]) -> None:
        """In the queue's thread: appends what each change gave or its error, once all of them are on the disk."""
        found: list[Any] = []
        if len(group) == 1:
            parts = [(group[0][0], [group[0][1]])]
        else:
            parts = [(change, [item for _, item, _ in some]) for change, some in groupby(group, key=_change)]
        try:
            with self.file.change():
                for change, items in parts:
                    try:
                        # the only part is undone with its transaction
                        with self.file.part() if len(parts) > 1 else nullcontext():
                            found += change(items)
                    except HoldfastError as error:
                        if len(parts) == 1 or self.file.ended():
                            raise
                        found += [error] * len(items)
                if any(item is None for _, item, _ in group):
                    self.count()
        except Exception as error:
            found = [error] * len(group)
            with suppress(HoldfastError):  # what was undone is not held
                self.file.asked(self.count)
        results += found

    def count(self) -> None:
        """How many bytes the queue holds, also what other processes put in; in the queue's thread."""
        self.space.held = self.file.entries.stored()

    async def close(self) -> None:
        """Lets changes end that wait; then nothing more is answered."""
        await self._quiet.wait()
        self._closed = True

        def stop() -> None:
            self.alive.close()
            self.file.close()

        await self._thread.run(stop)
