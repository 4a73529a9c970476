"""Large bodies on their way into a disk store: while one piece is hashed and written, the next one comes in.

A stream that is alone has its pieces hashed and written by two threads side by side, and the disk begins to write long
before the sync asks for it. Where several come at once they overlap each other, and each further visit to a pool would
cost more than it gains: then one visit does both. A stream holds at most two pieces and what its source has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Checker, Digest
from holdfast.errors import DigestMismatch
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.stores.disk.changes import DiskChanges

T = TypeVar("T")

WRITE_BACK_BYTES = 8 << 20
"""So much of a body is written before the disk is told to begin with it."""


class Visit(Protocol):
    """A function in a pool, refused once the store is closed; what the disk refuses comes translated."""

    def __call__(self, pool: Pool, function: Callable[..., T], /, *args: object) -> Awaitable[T]: ...


class Intake:
    """The large bodies of one store; use from one event loop, any number at once."""

    def __init__(self, changes: DiskChanges, *, files: Files, pool: Pool, sync_pool: Pool) -> None:
        """``pool`` hashes beside the writes of a stream that is alone; all else is done in ``sync_pool``."""
        self._changes = changes
        self._files = files
        self._pool = pool
        self._sync_pool = sync_pool
        self._streams = 0

    async def take(self, digest: Digest, size: int, source: AsyncIterable[Buffer], visit: Visit) -> bool:
        """Keeps the body, durably, by ``visit``; True if it is new. On any error nothing is kept."""
        changes, checker = self._changes, Checker(digest, size)
        temporary = changes.temporary()
        opened: list[int] = []
        written = told = seen = 0

        def write(piece: Buffer) -> None:
            nonlocal written, told
            changes.write(opened[0], piece)
            written += len(piece)
            if written - told >= WRITE_BACK_BYTES:
                self._files.write_back(opened[0], told, written - told)
                told = written

        def absorb(piece: Buffer) -> None:
            checker.update(piece)
            write(piece)

        def finish() -> bool:
            changes.sync(opened[0])
            changes.close(opened.pop())
            return changes.place(temporary, digest, size)

        def clean_up() -> None:
            if opened:
                self._files.close(opened.pop())
            changes.commit.discard(temporary)

        work: list[asyncio.Future[None]] = []
        self._streams += 1
        try:
            await visit(self._sync_pool, lambda: opened.append(changes.create(temporary)))
            async for piece in _megabytes(source):
                seen += len(piece)
                if seen > size:
                    raise DigestMismatch(f"{digest}: more than the {size} bytes announced")
                await _ended(work)
                if self._streams == 1:
                    begun = [visit(self._pool, checker.update, piece), visit(self._sync_pool, write, piece)]
                else:
                    begun = [visit(self._sync_pool, absorb, piece)]
                work = [asyncio.ensure_future(each) for each in begun]
            await _ended(work)
            checker.finish()
            return await visit(self._sync_pool, finish)
        finally:
            self._streams -= 1
            try:
                await _ended(work, quiet=True)
            finally:
                await self._sync_pool.run(clean_up)


async def _ended(work: Sequence[asyncio.Future[None]], *, quiet: bool = False) -> None:
    """Waits until all have ended, also when cancelled: they use the file. Raises what one of them did, if not quiet."""
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in work if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    for task in work:
        failed = None if task.cancelled() else task.exception()
        if failed is not None and not quiet:
            raise failed


async def gather(digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Sequence[Buffer]:
    """A body of at most a piece; cut off as soon as it is too long."""
    parts: list[Buffer] = []
    seen = 0
    async for piece in source:
        seen += len(piece)
        if seen > size:
            raise DigestMismatch(f"{digest}: more than the {size} bytes announced")
        parts.append(piece if _lasting(piece) else bytes(piece))
    return parts


async def _megabytes(source: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
    """The same bytes in pieces worth a visit to the pool: at least a MiB, but for the last. Each stays valid."""
    held = bytearray()
    async for piece in source:
        if not held and len(piece) >= PIECE_BYTES_MAX:
            yield piece if _lasting(piece) else bytes(piece)
            continue
        held += piece
        if len(held) >= PIECE_BYTES_MAX:
            yield held
            held = bytearray()
    if held:
        yield held


def _lasting(piece: Buffer) -> bool:
    """Whether its bytes stay as they are when the next piece is asked for; most buffers are filled again then."""
    return isinstance(piece.obj if isinstance(piece, memoryview) else piece, bytes)
