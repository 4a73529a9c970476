"""The outbox as a library: writes that must reach a target, however long that takes, and a person's view of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Literal

from holdfast import logs
from holdfast.auth.identity import SEED_BYTES
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock, Randomness, SystemClock, SystemRandomness
from holdfast.errors import BadRequest, NoSpace, StorePoisoned, Unavailable
from holdfast.files import Files, OsFiles, read_file, write_file
from holdfast.outbox import http_entry
from holdfast.outbox.delivery import Deliver, Delivery, Done, Summary, count
from holdfast.outbox.entry import Entry, NewEntry, State
from holdfast.outbox.http import HttpDelivery
from holdfast.outbox.next_step import WAITING_S
from holdfast.outbox.queue.queue import Queue
from holdfast.outbox.queue.rows import Total
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import Pool, ThreadPool
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.network import Network, TcpNetwork

Keep = Literal["mine", "theirs", "both"]

_log = logs.get_logger(__name__)


class Outbox:
    """A durable queue of writes in one directory. Use from one event loop; any number of processes may share it.

    ::

        import asyncio
        from holdfast.outbox import Outbox, State, http

        async def main() -> None:
            async with await Outbox.open("notes-outbox") as outbox:
                # durable when this returns, with or without a link
                await outbox.enqueue(
                    http.put("https://dav.example.org/notes/today.txt", content_type="text/plain", if_absent=True),
                    b"bought milk",
                )
                summary = await outbox.flush()
                print(summary.delivered, "delivered,", summary.waiting, "wait")
                async for entry in outbox.entries(states=[State.CONFLICT]):
                    print(entry.keys[0], entry.reason)
                    await outbox.resolve(entry.sequence, "mine")  # or "theirs", or "both" under a new name

        asyncio.run(main())
    """

    def __init__(
        self, queue: Queue, deliver: Mapping[str, Deliver], *, clock: Clock, randomness: Randomness, http: HttpDelivery,
        pools: Sequence[Pool],
    ) -> None:  # fmt: skip
        """For ``open`` only."""
        self.queue = queue
        self._delivery = Delivery(queue, {http_entry.KIND: http, **deliver}, clock=clock, randomness=randomness)
        self._http = http
        self._clock = clock
        self._pools = pools
        self._watching: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(
        cls,
        directory: str | Path,
        *,
        seed: bytes | None = None,
        deliver: Mapping[str, Deliver] | None = None,
        http: HttpDelivery | None = None,
        settings: OutboxSettings | None = None,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
        files: Files | None = None,
        network: Network | None = None,
        pool: Pool | None = None,
        thread: Pool | None = None,
    ) -> Outbox:
        """The outbox in ``directory``, made if there is none.

        ``seed``: 32 secret bytes under which the contents are sealed, a device's or node's; without it they are made
        and kept in ``DIRECTORY/key``, which protects a copy of the queue only from those who lack that file.
        ``deliver``: functions for further kinds of entries. ``http``: instead of the one for kind http that is made
        here. ``pool`` and ``thread`` (of one worker, for this outbox alone) are closed with it if they are made here.

        Denied for a wrong seed, BadConfig or Corrupt for a directory that holds something else or is damaged: nothing
        is changed then.
        """
        directory = Path(directory).absolute()
        clock, randomness, files = clock or SystemClock(), randomness or SystemRandomness(), files or OsFiles()
        own: list[Pool] = []
        if pool is None:
            own.append(pool := ThreadPool(name="outbox"))
        if thread is None:
            own.append(thread := ThreadPool(1, name="outbox-queue"))
        try:
            if seed is None:
                seed = await pool.run(_kept_seed, directory, files, randomness)
            queue = await Queue.open(
                directory,
                seed=seed,
                clock=clock,
                randomness=randomness,
                files=files,
                pool=pool,
                thread=thread,
                settings=settings or OutboxSettings(),
            )
        except BaseException:
            for made in own:
                made.close()
            raise
        if http is None:
            http = HttpDelivery(
                ForeignHttp(network=network or TcpNetwork()), clock=clock, randomness=randomness, files=files, pool=pool
            )
        return cls(queue, deliver or {}, clock=clock, randomness=randomness, http=http, pools=own)

    async def __aenter__(self) -> Outbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends a watch that runs; what is under way is given back and stays queued. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._http.close()
        await self.queue.close()
        for pool in self._pools:
            pool.close()

    # --- putting in ---------------------------------------------------------------------------------------------------

    async def enqueue(self, new: NewEntry, body: Buffer | AsyncIterable[Buffer] | None = None) -> int:
        """Queues one write, durable when this returns; its sequence, by which it is called from then on.

        A PUT needs a ``body``, if only an empty one. BadRequest for what may not be queued, TooLarge, NoSpace when the
        outbox or the disk is full (what was queued before is safe), StorePoisoned after a failed sync.
        """
        if new.kind == http_entry.KIND and (new.payload.get("method") == "PUT") != (body is not None):
            raise BadRequest("a PUT has a body, a DELETE none")
        sequence = await self.queue.add(new, body)
        self._delivery.wake()
        return sequence

    async def add_pack(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        """Keeps a sealed pack for entries that will name it in ``needs``; see ``Queue.add_pack``."""
        await self.queue.add_pack(digest, size, source)

    # --- delivering ---------------------------------------------------------------------------------------------------

    async def flush(self, progress: Callable[[Done], None] | None = None, *, now: bool = False) -> Summary:
        """Tries everything that is due once, and what becomes due by it; does not wait for targets that are down.

        ``now``: what was deferred is due, too, but for what its target asked to wait. While a watch runs in this
        process, that delivers; this only wakes it.
        """
        summary = Summary()
        if now:
            await self._delivery.hasten()
        if self._watching:
            self._delivery.wake()
            summary.waiting = await self.waiting()
            return summary
        async with aclosing(self._delivery.run(forever=False)) as tries:
            async for done in tries:
                count(summary, done)
                if progress is not None:
                    progress(done)
        summary.waiting = await self.waiting()
        return summary

    async def watch(self, progress: Callable[[Done], None] | None = None) -> None:
        """Delivers until it is cancelled or the outbox is closed."""
        if self._closed:
            raise Unavailable("the outbox is closed")
        task = asyncio.get_running_loop().create_task(self._watch(progress))
        self._watching.add(task)
        try:
            await task
        finally:
            self._watching.discard(task)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, progress: Callable[[Done], None] | None) -> None:
        while True:
            try:
                async with aclosing(self._delivery.run(forever=True)) as tries:
                    async for done in tries:
                        if progress is not None:
                            progress(done)
            except StorePoisoned:
                raise
            except (NoSpace, Unavailable) as error:  # of our own disk: nothing is lost, and it may pass
                _log.warning("outbox_watch_waits", reason=error.detail)
                await self._clock.sleep(WAITING_S)

    # --- a person's view ----------------------------------------------------------------------------------------------

    async def entries(
        self, *, after: int = 0, states: Sequence[State] | None = None, page: int = 100
    ) -> AsyncIterator[Entry]:
        """All entries, or those in ``states``, in their order; read in pages."""
        while True:
            found = await self.queue.page(after, page, states)
            for entry in found:
                yield entry
            if len(found) < page:
                return
            after = found[-1].sequence

    async def show(self, sequence: int) -> Entry:
        """One entry; ``open`` gives our bytes, ``theirs.open`` the other side's. NotFound."""
        return await self.queue.find(sequence)

    async def waiting_for(self, key: str) -> list[Entry]:
        """What stands in the queue of one key, in order: the last one is what it will hold."""
        return await self.queue.of_key(key)

    async def waiting(self) -> int:
        """Entries that are still to be delivered."""
        return sum(row.entries for row in await self.totals() if row.state in (State.WAITING, State.DEFERRED))

    async def totals(self) -> list[Total]:
        """Entries and bytes, by state and class."""
        return await self.queue.totals()

    def now(self) -> float:
        """By the clock that dates its entries, seconds since 1970."""
        return self._clock.now()

    async def oldest(self) -> Entry | None:
        """The first entry that is still to be delivered; ``created`` tells its age."""
        return await self.queue.oldest()

    async def resolve(self, sequence: int, keep: Keep, elsewhere: NewEntry | None = None) -> None:
        """Ends a conflict. ``mine``: it goes out again over what is there; if that has changed again, it is a conflict
        again. ``theirs``: it is dropped. ``both``: theirs stays, mine goes out as ``elsewhere``, under another name.

        NotFound, BadRequest if it is no conflict.
        """
        entry = await self.queue.find(sequence)
        if entry.state is not State.CONFLICT:
            raise BadRequest(f"entry {sequence} is no conflict, it is {entry.state.label}")
        if keep == "mine":
            base = None if entry.theirs is None else entry.theirs.facts.get("base")
            await self.queue.wishes.resolve_mine(sequence, base)
        elif keep == "theirs":
            await self.queue.wishes.drop(sequence)
        elif elsewhere is None:
            raise BadRequest("to keep both, another name is needed for mine")
        else:
            await self.queue.wishes.resolve_elsewhere(sequence, elsewhere)
        self._delivery.wake()

    async def retry(self, sequence: int) -> None:
        """Tries an entry again now that was deferred, rejected or abandoned. NotFound, BadRequest for a conflict."""
        await self.queue.wishes.retry(sequence)
        self._delivery.wake()

    async def drop(self, sequence: int) -> None:
        """Gives an entry up for good. NotFound; Unavailable while it is being delivered."""
        await self.queue.wishes.drop(sequence)
        self._delivery.wake()


def _kept_seed(directory: Path, files: Files, randomness: Randomness) -> bytes:
    path = directory / "key"
    try:
        files.make_directory(directory)
        found = read_file(files, path, SEED_BYTES)
        if found is None:
            with contextlib.suppress(FileExistsError):  # another process was faster
                write_file(files, path, randomness.bytes(SEED_BYTES), replace=False)
            found = read_file(files, path, SEED_BYTES)
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror or error}") from error
    return found or b""
