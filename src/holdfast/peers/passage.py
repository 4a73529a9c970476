"""One blob on its way through a node: written once, read by any number of readers, each at its own pace.

What came lies in memory while all passages together have room there: it is then written once, where it is kept. Else
it is kept in a file without a name, and its newest part in memory too, for readers that keep up. The last bytes are
held back until somebody has said that the whole is right. If the disk is full the rest goes through memory alone, and
then at the pace of the slowest reader: memory stays bounded either way.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast.blob import PIECE_BYTES_MAX, Buffer
from holdfast.errors import HoldfastError, Unavailable
from holdfast.files import Files
from holdfast.pool import Pool

MEMORY_BYTES_MAX = 1 << 20
"""Blobs up to this lie in memory only and are given out only when they are right."""
WINDOW_BYTES = 4 << 20
"""The newest bytes of a larger one that lie in memory."""
HELD_BYTES = 64 << 10
"""What is held back of a larger one until the whole is right."""
ROOM_BYTES = 64 << 20
"""Memory for the larger ones of one node, all together."""
JOINED_BYTES_MAX = 4 << 10
"""Pieces shorter than this are joined, so that a source that sends crumbs costs no memory beside them."""


class Room:
    """Memory that passages share. Plain state."""

    def __init__(self, limit: int = ROOM_BYTES) -> None:
        self.left = limit

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes are the caller's now, until it gives them back."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        self.left += size


class Passage:
    """The bytes of one blob of ``size`` bytes. One writer. Use from one event loop."""

    def __init__(self, size: int, *, path: Path | None, files: Files, pool: Pool, room: Room | None = None) -> None:
        """``path``: where a file may be made for a moment; None: memory only. ``room``: to lie in memory as a whole."""
        self.size = size
        self.written = 0
        self.given = 0
        """How far the farthest reader has come."""
        self._path = path
        self._files = files
        self._pool = pool
        self._starts: list[int] = []  # of the pieces in memory, ascending
        self._pieces: list[bytes] = []
        self._window_start = 0
        self._on_disk = 0
        self._descriptors: tuple[int, int] | None = None
        self._room = room if size > MEMORY_BYTES_MAX and room is not None and room.take(size) else None
        self._resident = size <= MEMORY_BYTES_MAX or self._room is not None
        self._disk = path is not None and not self._resident
        self._right = False
        self._error: HoldfastError | None = None
        self._readers: dict[int, int] = {}
        self._next_reader = 0
        self._changed = asyncio.Event()
        self._writing = True
        self._closed = False

    @property
    def whole(self) -> bool:
        """Was everything written, and right?"""
        return self._right

    @property
    def error(self) -> HoldfastError | None:
        return self._error

    @property
    def joinable(self) -> bool:
        """Can a new reader still have everything from the start?"""
        if self._error is not None or self._closed:
            return False
        return self._window_start == 0 or self._on_disk >= self._window_start

    @property
    def readers(self) -> int:
        return len(self._readers)

    async def settled(self) -> None:
        """Returns once the end is known, or at once where nothing is put by: then nobody may fall behind."""
        while not self._right and self._error is None and (self._disk or self._room is not None):
            changed = self._changed
            await changed.wait()

    # -- the writer

    async def write(self, piece: Buffer) -> None:
        """Appends; waits while the slowest reader is too far behind and there is no disk to put it by."""
        data = bytes(piece)
        if self._disk:
            await self._put_by(data)
        if self._pieces and len(self._pieces[-1]) + len(data) <= JOINED_BYTES_MAX:
            self._pieces[-1] += data
        else:
            self._starts.append(self.written)
            self._pieces.append(data)
        self.written += len(data)
        self._tell()
        await self._shrink()

    def finish(self) -> None:
        """The whole is right."""
        assert self.written == self.size, "all of it was written"
        self._right = True
        self._tell()

    def fail(self, error: HoldfastError) -> None:
        """Readers that have not had everything get ``error``. Has no effect after ``finish``."""
        if not self._right and self._error is None:
            self._error = error
        self._tell()

    async def release(self) -> None:
        """The writer is done, however it ended. What is there stays until the last reader has gone."""
        self._writing = False
        await self._close_if_done()

    # -- readers

    @asynccontextmanager
    async def reading(self, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[Buffer]]:
        """Pieces of at most 1 MiB from ``start`` to ``stop``; the writer's failure is raised."""
        number = self._next_reader
        self._next_reader += 1
        self._readers[number] = start
        try:
            yield self._read(number, start, self.size if stop is None else stop)
        finally:
            del self._readers[number]
            self._tell()
            await self._close_if_done()

    async def _read(self, number: int, at: int, stop: int) -> AsyncIterator[Buffer]:
        while at < stop:
            while self._released() <= at:
                if self._error is not None:
                    raise self._error
                changed = self._changed
                await changed.wait()
            until = min(stop, self._released())
            piece: Buffer | None = self._from_window(at, until)
            if piece is None:
                piece = await self._from_disk(at, min(until, self._on_disk))
            at += len(piece)
            self.given = max(self.given, at)
            self._readers[number] = at
            self._tell()
            yield piece

    def _released(self) -> int:
        """Up to where readers may go."""
        if self._right:
            return self.size
        if self.size <= MEMORY_BYTES_MAX:
            return 0
        return min(self.written, self.size - HELD_BYTES)

    def _from_window(self, at: int, until: int) -> memoryview | None:
        if at < self._window_start or not self._pieces:
            return None
        index = bisect_right(self._starts, at) - 1
        start = self._starts[index]
        found = memoryview(self._pieces[index])[at - start : min(until - start, at - start + PIECE_BYTES_MAX)]
        return found if len(found) else None

    async def _from_disk(self, at: int, until: int) -> bytes:
        if self._descriptors is None or at >= until:
            raise Unavailable("this reader came too late for a blob that passed through memory only; ask again")
        try:
            data = await self._pool.run(self._files.read, self._descriptors[1], min(until - at, PIECE_BYTES_MAX), at)
        except OSError as error:
            raise Unavailable(f"the temporary file cannot be read back: {error.strerror or error}") from error
        if not data:
            raise Unavailable("the temporary file was cut off")
        return data

    # -- memory and disk

    async def _put_by(self, data: bytes) -> None:
        try:
            if self._descriptors is None:
                self._descriptors = await self._pool.run(self._make)
            await self._pool.run(self._files.write, self._descriptors[0], data)
        except OSError:  # from here on through memory; what is on disk can still be read
            self._disk = False
        else:
            self._on_disk += len(data)

    def _make(self) -> tuple[int, int]:
        assert self._path is not None, "there is a disk"
        made = self._files.create(self._path)
        try:
            opened = self._files.open(self._path)
        except OSError:
            self._files.close(made)
            raise
        finally:
            self._files.unlink(self._path)
        return made, opened

    async def _shrink(self) -> None:
        """Drops from memory what is on disk or every reader has had; waits for readers only where there is no disk."""
        if self._resident:
            return
        while self._pieces and self.written - self._window_start > WINDOW_BYTES:
            stop = self._starts[0] + len(self._pieces[0])
            if stop > self._on_disk and self._readers and min(self._readers.values()) < stop:
                if self._released() <= min(self._readers.values()):
                    break  # they wait for us, not we for them
                changed = self._changed
                await changed.wait()
                continue
            del self._starts[0], self._pieces[0]
            self._window_start = stop

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _close_if_done(self) -> None:
        if self._writing or self._readers:
            return
        self._closed = True
        if self._room is not None:
            self._room.give(self.size)
            self._room = None
            self._starts, self._pieces = [], []
        if self._descriptors is not None:
            descriptors, self._descriptors = self._descriptors, None
            self._disk = False
            await self._pool.run(_close, self._files, descriptors)


def _close(files: Files, descriptors: tuple[int, int]) -> None:
    """In the pool: the system frees a large file here."""
    for descriptor in descriptors:
        files.close(descriptor)
