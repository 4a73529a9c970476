"""Blobs as files under one directory: the durable store of a node.

It owns the directory (one process at a time, by a lock) and knows nothing of why a blob is kept. An acknowledged put
survives a power cut; a crash at any moment leaves nothing wrong under a blob's name. What may be lost: puts that were
not acknowledged. After a failed sync it only reads (``disk_health``).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from holdfast import logs
from holdfast.blob import PIECE_BYTES_MAX, Buffer, Digest
from holdfast.clock import Clock, Randomness
from holdfast.errors import BadConfig, Corrupt, HoldfastError, NotFound, Unavailable
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.stores.disk import layout as disk_layout
from holdfast.stores.disk.aside import AsideEntry
from holdfast.stores.disk.changes import EMPTY, DiskChanges
from holdfast.stores.disk.intake import Intake, gather
from holdfast.stores.disk.layout import Layout
from holdfast.stores.disk.read import SMALL_BYTES_MAX, hash_file, read_part, reading
from holdfast.stores.disk.space import StoreSpace
from holdfast.stores.protocol import Body, Info, OpenFile, Range, Stored, Traits, check_limit
from holdfast.stores.single_put import SinglePut

_log = logs.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DELETE_BATCH = 256
"""Blobs moved to trash in one visit to the pool, with one sync of the trash."""


class Verdict(enum.Enum):
    """What re-reading a blob came to."""

    RIGHT = "right"
    RIGHT_AT_SECOND_READ = "right at the second read"  # the disk or the memory of this machine deserves a look
    QUARANTINED = "quarantined"  # wrong twice; set aside

    def __bool__(self) -> bool:
        return self is not Verdict.QUARANTINED


class Purged(NamedTuple):
    """What left the trash for good."""

    blobs: int
    size: int  # bytes


class DiskStore:
    """A store in a directory; make one with ``init``, then ``open`` it."""

    alone = True
    """Its lock sees to it that nobody else writes there."""

    def __init__(
        self,
        paths: Layout,
        store_id: str,
        changes: DiskChanges,
        lock: AbstractContextManager[None],
        *,
        files: Files,
        pool: Pool,
        sync_pool: Pool,
    ) -> None:
        """For ``open`` only."""
        self.id = store_id
        self.root = paths.root
        self._paths = paths
        self._changes = changes
        self._lock = lock
        self._files = files
        self._pool = pool
        self._sync_pool = sync_pool
        self._intake = Intake(changes, files=files, pool=pool, sync_pool=sync_pool)
        self._puts = SinglePut()
        self._visits = 0  # functions in a pool now
        self._quiet = asyncio.Event()
        self._counting: asyncio.Task[None] | None = None
        self._closed = False

    @staticmethod
    async def init(root: Path, *, files: Files, pool: Pool, randomness: Randomness) -> str:
        """Makes an empty store in ``root`` (made if needed) and returns its id; BadConfig if there is one already."""
        return await pool.run(disk_layout.create, files, root, randomness)

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        files: Files,
        pool: Pool,
        clock: Clock,
        sync_pool: Pool | None = None,
        expected_id: str | None = None,
        capacity_bytes: int | None = None,
        reserve_bytes: int = 0,
        ballast_bytes: int = 0,
        trash_clock: Callable[[], float] | None = None,
    ) -> DiskStore:
        """Takes the lock, sweeps what a crash left and, unless the last stop was clean, counts what is there.

        Of many blobs most are counted after this has returned: ``space`` shows too few ``used`` until then.

        ``reserve_bytes`` of the file system are left to others by puts; ``ballast_bytes`` are held, so that a delete
        finds room where others have left none. ``sync_pool`` (a few threads of its own, so that hashing never waits
        for the disk) and ``pool`` stay the caller's. ``trash_clock`` gives seconds for the age of trash: a node hands
        in its slow clock; without one it is ``clock.now``. BadConfig: no store there, another than ``expected_id``, or
        in use.
        """
        paths = Layout(root)

        def start() -> tuple[str, DiskChanges, AbstractContextManager[None]]:
            store_id = disk_layout.load(files, root, expected_id)
            lock = files.lock(paths.lock)
            lock.__enter__()
            try:
                changes = DiskChanges(
                    files,
                    paths,
                    capacity=capacity_bytes,
                    reserve=reserve_bytes,
                    ballast=ballast_bytes,
                    trash_clock=trash_clock or clock.now,
                )
                changes.recover()
            except BaseException as error:
                lock.__exit__(None, None, None)
                if isinstance(error, OSError) and not isinstance(error, HoldfastError):
                    raise BadConfig(f"the store in {root} cannot be used: {error.strerror or error}") from error
                raise
            return store_id, changes, lock

        store_id, changes, lock = await pool.run(start)
        store = cls(paths, store_id, changes, lock, files=files, pool=pool, sync_pool=sync_pool or pool)
        if not changes.tally.whole:
            store._counting = asyncio.get_running_loop().create_task(store._count(), name="store count")
        return store

    async def _count(self) -> None:
        try:
            while not self._changes.tally.whole:
                await self._visit(self._pool, self._changes.count)
        except HoldfastError as error:
            if self._closed:
                return
            _log.warning("store_not_counted", store=str(self.root), reason=error.detail)

    @property
    def traits(self) -> Traits:
        return Traits(durable=True, blob_bytes_max=None, checked=False)

    @property
    def poisoned(self) -> str | None:
        """Why this store only reads, in words; None while it also writes."""
        return self._changes.health.poisoned

    def space(self) -> StoreSpace:
        """Bytes kept, set aside and free; the last as seen at the last change. Never blocks."""
        return self._changes.space.read()

    # -- put

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """As the protocol says; durable on return. Of two puts of one digest at once, one writes."""
        return await self._puts.run(digest, size, lambda: self._put(digest, size, source))

    async def _put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        changes = self._changes
        self._check_open()
        changes.health.check()
        small = size <= SMALL_BYTES_MAX
        fits = changes.space.fits(size)
        # A small body is read before anybody looks whether it is there: a second visit to the pool would cost more.
        if not (small and fits) and await self._visit(self._sync_pool, changes.look_around, digest, size):
            return Stored(digest, size, False)
        with changes.space.reserved(size):
            if size <= PIECE_BYTES_MAX:
                data = await gather(digest, size, source)
                new = await self._visit(self._sync_pool, changes.keep, digest, size, data)
            else:
                new = await self._intake.take(digest, size, source, self._visit)
        return Stored(digest, size, new)

    def fits(self, size: int) -> bool:
        """Whether there is room for ``size`` bytes, as last seen. Never blocks."""
        return self._changes.space.fits(size)

    async def put_small(self, digest: Digest, data: Buffer, then: Callable[[], None]) -> Stored:
        """As ``put``, of a body of at most 1 MiB that has come whole, which is compared with the digest in any case.

        ``then`` is called once the blob is durable, in the same visit to a thread.
        """
        changes, size = self._changes, len(data)

        def keep() -> Stored:
            new = changes.keep(digest, size, (data,))
            then()
            return Stored(digest, size, new)

        async def work() -> Stored:
            self._check_open()
            changes.health.check()
            with changes.space.reserved(size):
                return await self._visit(self._sync_pool, keep)

        return await self._puts.run(digest, size, work, share=False)

    # -- reads

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        """As the protocol says; not compared with the digest (``VerifiedStore`` does)."""
        self._check_open()
        async with reading(self._files, self._pool, self._paths.blob(digest), range_) as body:
            yield body

    async def read_part(self, digest: Digest, start: int, stop: int, *, whole: bool = False) -> bytes:
        """A few bytes of a blob, in one visit to a thread. NotFound; Corrupt if it ends before ``stop``, or if with
        ``whole`` they do not have its digest."""
        path, expected = self._paths.blob(digest), digest if whole else None
        return await self._visit(self._pool, read_part, self._files, path, start, stop, expected)

    async def open_file(self, digest: Digest, size: int | None = None) -> OpenFile:
        """The blob's file for sendfile. With ``size``: Corrupt if the file has another one."""
        path = self._paths.blob(digest)

        def opened() -> OpenFile:
            try:
                file = self._files.reader(path)
            except FileNotFoundError as error:
                raise NotFound(f"{digest} is not in this store") from error
            found = self._files.size(path)
            if found is None or (size is not None and found != size):
                file.close()
                if found is None:
                    raise NotFound(f"{digest} is not in this store")
                raise Corrupt(f"the file of {digest} has {found} bytes, {size} were kept")
            return OpenFile(file, found)

        return await self._visit(self._pool, opened)

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        """By the files' sizes, in one visit to the disk; a put that is not durable yet is not there yet."""

        def look() -> list[Info | None]:
            sizes = {digest: self._size(digest) for digest in set(digests)}
            return [None if (size := sizes[digest]) is None else Info(digest, size) for digest in digests]

        return await self._visit(self._pool, look)

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        """As the protocol says; reads only the directories that the page needs."""
        check_limit(limit)

        def page() -> list[Info]:
            found: list[Info] = []
            lowest = "" if after is None else str(after)
            for directory in self._paths.directories()[after[0] if after is not None else 0 :]:
                names = disk_layout.names(self._files, directory, lowest)
                for start in range(0, len(names), limit):
                    part = names[start : start + limit]
                    for name, seen in zip(part, self._files.sizes(directory, part), strict=True):
                        digest = Digest(bytes.fromhex(name))
                        size = self._believed(digest, seen)
                        if size is not None:
                            found.append(Info(digest, size))
                        if len(found) == limit:
                            return found
            return found

        return await self._visit(self._pool, page)

    def _size(self, digest: Digest) -> int | None:
        return self._believed(digest, self._files.size(self._paths.blob(digest)))

    def _believed(self, digest: Digest, size: int | None) -> int | None:
        """The size of the file as that of a blob: one that is not durable yet, or torn and not counted yet, is none."""
        if digest in self._changes.commit.unsettled or (size == 0 and digest != EMPTY):
            return None
        return size

    # -- delete, trash, quarantine

    async def delete(self, digests: Sequence[Digest]) -> None:
        """Moves them to trash, durably; ``restore`` brings them back until ``purge_trash``."""
        for start in range(0, len(digests), DELETE_BATCH):
            await self._visit(self._sync_pool, self._changes.delete, digests[start : start + DELETE_BATCH])

    async def discard(self, digests: Sequence[Digest]) -> None:
        """As ``delete``, but nothing stays in trash: for what can be had again elsewhere."""
        for start in range(0, len(digests), DELETE_BATCH):
            await self._visit(self._sync_pool, self._changes.discard, digests[start : start + DELETE_BATCH])

    async def restore(self, digest: Digest) -> Info:
        """Back from trash, durably. Fine if it is in the store already; NotFound if it is nowhere."""
        return await self._visit(self._sync_pool, self._changes.restore, digest)

    def trash(self) -> Sequence[AsideEntry]:
        """What can be restored, the longest dead first. Never blocks."""
        return self._changes.trash.entries()

    async def purge_trash(self, before: float) -> Purged:
        """Removes for good what was deleted before that second of the trash clock."""
        return Purged(*await self._visit(self._sync_pool, self._changes.purge, before))

    async def quarantine(self, digest: Digest, reason: str) -> bool:
        """Sets a bad copy aside, so that a right one can be put; False if there is none. The log keeps ``reason``."""
        return await self._visit(self._sync_pool, self._changes.set_aside, digest, reason)

    def quarantined(self) -> Sequence[AsideEntry]:
        """The bad copies set aside, the oldest first. Never blocks."""
        return self._changes.quarantine.entries()

    async def verify(self, digest: Digest) -> Verdict:
        """Reads the blob from the disk and hashes it; wrong twice, it is quarantined. NotFound if it is not there.

        One wrong read is not believed: memory and cables err too. A poisoned store says StorePoisoned instead of
        moving anything.
        """
        path = self._paths.blob(digest)
        reason = ""
        for verdict in (Verdict.RIGHT, Verdict.RIGHT_AT_SECOND_READ):
            try:
                found = await self._visit(self._pool, hash_file, self._files, path)
            except Corrupt as error:
                reason = error.detail
                continue
            if found == digest:
                return verdict
            reason = f"its bytes have digest {found}"
        await self.quarantine(digest, reason)
        return Verdict.QUARANTINED

    # -- end

    async def close(self) -> None:
        """Refuses what comes, waits for what the pools do now, gives the lock back. Puts under way fail.

        Leaves word of a clean stop, so that the next start need not count.
        """
        if self._closed:
            return
        self._closed = True
        while self._visits:
            self._quiet.clear()
            await self._quiet.wait()
        if self._counting is not None:
            await asyncio.wait([self._counting])
        try:
            await self._pool.run(self._changes.finish)
        finally:
            self._lock.__exit__(None, None, None)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"the store in {self.root} is closed")

    async def _visit(self, pool: Pool, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        self._visits += 1
        try:
            return await pool.run(function, *args, **kwargs)
        except HoldfastError:
            raise
        except OSError as error:
            raise Unavailable(f"the disk of {self.root} refuses: {error.strerror or error}") from error
        finally:
            self._visits -= 1
            self._quiet.set()
