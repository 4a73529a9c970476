"""Reading blobs from a disk store: small ones in one visit to the pool, large ones by pieces with one read ahead."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Digest
from holdfast.errors import Corrupt, HoldfastError, NotFound, Unavailable
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.stores.disk.health import BROKEN
from holdfast.stores.protocol import Body, Range

SMALL_BYTES_MAX = 64 * 1024
"""Bodies up to this are read, or written, in one visit to a pool."""


class _Opened(NamedTuple):
    """What the first visit to the pool brought; ``descriptor`` None when that was all."""

    descriptor: int | None
    first: bytes
    start: int
    stop: int
    total: int


def _translated(error: OSError, path: str) -> HoldfastError:
    if isinstance(error, HoldfastError):  # some of ours are OSErrors too
        return error
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{_name(path)} is not in this store")
    return Unavailable(f"{_name(path)} cannot be read: {error.strerror or error}")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _read(files: Files, descriptor: int, path: str, start: int, stop: int) -> bytes:
    """Exactly those bytes; Corrupt if the file ends before."""
    try:
        piece = files.read(descriptor, stop - start, start)
    except OSError as error:
        raise _translated(error, path) from error
    if len(piece) != stop - start:
        raise Corrupt(f"{_name(path)} ends at byte {start + len(piece)}, which was no end a moment ago")
    return piece


def _open(files: Files, path: str, range_: Range | None) -> _Opened:
    try:
        descriptor = files.open(path)
    except OSError as error:
        raise _translated(error, path) from error
    kept = False
    try:
        try:
            total = files.size(path)
        except OSError as error:
            raise _translated(error, path) from error
        if total is None:
            raise NotFound(f"{_name(path)} is not in this store")
        start, stop = (0, total) if range_ is None else range_.within(total)
        limit = stop if stop - start <= SMALL_BYTES_MAX else min(stop, start + PIECE_BYTES_MAX)
        first = _read(files, descriptor, path, start, limit)
        kept = limit < stop
        return _Opened(descriptor if kept else None, first, start, stop, total)
    finally:
        if not kept:
            files.close(descriptor)


class _DiskBody:
    """A body in pieces; the next one is read while the consumer has the last."""

    def __init__(self, opened: _Opened, more: Callable[[int, int], Awaitable[bytes]]) -> None:
        self.size = opened.stop - opened.start
        self.total = opened.total
        self._opened = opened
        self._more = more
        self._ahead: asyncio.Future[bytes] | None = None

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        piece, offset, stop = self._opened.first, self._opened.start, self._opened.stop
        while piece:
            offset += len(piece)
            if offset < stop:
                self._ahead = asyncio.ensure_future(self._more(offset, min(stop, offset + PIECE_BYTES_MAX)))
            yield piece
            if offset >= stop:
                return
            assert self._ahead is not None, "a body is read once"
            piece = await self._ahead
            self._ahead = None

    async def end(self) -> None:
        """Waits for the read under way, which uses the descriptor."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)


@asynccontextmanager
async def reading(files: Files, pool: Pool, path: str, range_: Range | None) -> AsyncIterator[Body]:
    """The blob in ``path``, or a range of it; NotFound, RangeInvalid or Unavailable on entering."""
    opened = await _opened(files, pool, path, range_)
    descriptor = opened.descriptor

    async def more(start: int, stop: int) -> bytes:
        assert descriptor is not None, "there is more only where a file is open"
        return await pool.run(_read, files, descriptor, path, start, stop)

    body = _DiskBody(opened, more)
    try:
        yield body
    finally:
        await body.end()
        if descriptor is not None:
            await pool.run(files.close, descriptor)


async def _opened(files: Files, pool: Pool, path: str, range_: Range | None) -> _Opened:
    """Opens in the pool; a caller cancelled meanwhile leaves no descriptor behind."""
    result: list[_Opened] = []
    try:
        await pool.run(lambda: result.append(_open(files, path, range_)))
    except asyncio.CancelledError:
        if result and result[0].descriptor is not None:
            files.close(result[0].descriptor)
        raise
    return result[0]


def read_part(files: Files, path: str, start: int, stop: int, digest: Digest | None) -> bytes:
    """Exactly those bytes, in one go; Corrupt unless they have ``digest``, if it is given. Blocks."""
    try:
        descriptor = files.open(path)
    except OSError as error:
        raise _translated(error, path) from error
    try:
        data = _read(files, descriptor, path, start, stop)
    finally:
        files.close(descriptor)
    if digest is not None and Digest.of(data) != digest:
        raise Corrupt(f"{_name(path)} holds other bytes")
    return data


def hash_file(files: Files, path: str) -> Digest:
    """The digest of what the disk, not the cache, holds now. Blocks.

    NotFound if there is no such file, Corrupt if the disk cannot read it; other refusals stay OSErrors.
    """
    try:
        descriptor = files.open(path)
    except FileNotFoundError as error:
        raise NotFound(f"{_name(path)} is not in this store") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Corrupt(f"{_name(path)} is a symbolic link") from error
    state, offset = hashlib.sha256(), 0
    try:
        files.forget(descriptor)
        while piece := files.read(descriptor, PIECE_BYTES_MAX, offset):
            state.update(piece)
            offset += len(piece)
    except OSError as error:
        if error.errno not in BROKEN:
            raise
        raise Corrupt(f"{_name(path)} cannot be read: {error.strerror or error}") from error
    finally:
        files.close(descriptor)
    return Digest(state.digest())
