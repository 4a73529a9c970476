"""A source put by until its digest and length are known, or so that it can be sent again: stdin, retries.

Up to ``memory_max`` bytes stay in memory, more go to one temporary file, which is gone at the end (and needs no sync:
nobody was promised it).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Digest, pieces
from holdfast.clock import Randomness
from holdfast.errors import HoldfastError, NoSpace, TooLarge, Unavailable
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.stores.disk.health import FULL

MEMORY_BYTES_MAX = 64 * 1024


class Spooled:
    """Bytes put by: valid inside the ``async with`` of ``spool`` only."""

    def __init__(self, digest: Digest, size: int, memory: bytes, path: Path | None, files: Files, pool: Pool) -> None:
        """For ``spool`` only."""
        self.digest = digest
        self.size = size
        self._memory = memory
        self._path = path
        self._files = files
        self._pool = pool

    async def open(self) -> AsyncIterator[Buffer]:
        """The bytes from the start, in pieces of at most 1 MiB; may be called several times, also at once."""
        if self._path is None:
            async for piece in pieces(self._memory):
                yield piece
            return
        offset = 0
        while offset < self.size:
            read = await self._pool.run(_read, self._files, self._path, offset)
            if not read:
                raise Unavailable(f"the temporary file {self._path} was cut off")
            offset += len(read)
            yield read


def _read(files: Files, path: Path, offset: int) -> bytes:
    with _translated(path):
        descriptor = files.open(path)  # opened each time: a reader that is abandoned leaves nothing open
        try:
            return files.read(descriptor, PIECE_BYTES_MAX, offset)
        finally:
            files.close(descriptor)


@asynccontextmanager
async def spool(
    source: AsyncIterable[Buffer],
    *,
    directory: Path,
    files: Files,
    pool: Pool,
    randomness: Randomness,
    memory_max: int = MEMORY_BYTES_MAX,
    size_max: int | None = None,
) -> AsyncIterator[Spooled]:
    """Reads ``source`` to its end, then gives its digest, size and bytes.

    TooLarge as soon as it has more than ``size_max`` bytes, NoSpace when the disk of ``directory`` is full.
    """
    state, size, held = hashlib.sha256(), 0, bytearray()
    path = directory / f"spool-{randomness.bytes(8).hex()}"
    opened: list[int] = []

    def spill() -> None:
        """What is held goes to the file; with the hash, so that one visit to the pool does both."""
        with _translated(path):
            if not opened:
                opened.append(files.create(path))
            files.write(opened[0], held)
        state.update(held)

    def clean_up(unlink: bool) -> None:
        with contextlib.suppress(OSError):
            while opened:
                files.close(opened.pop())
        if unlink:
            with contextlib.suppress(OSError):
                files.unlink(path)

    spilled = False
    try:
        async for piece in source:
            size += len(piece)
            if size_max is not None and size > size_max:
                raise TooLarge(f"more than {size_max} bytes")
            held += piece
            if len(held) > (PIECE_BYTES_MAX // 2 if spilled else memory_max):
                spilled = True
                await pool.run(spill)
                held = bytearray()
        if spilled and held:
            await pool.run(spill)
        if not spilled:
            await pool.run(state.update, held)
        else:
            await pool.run(clean_up, False)
        memory = b"" if spilled else bytes(held)
        yield Spooled(Digest(state.digest()), size, memory, path if spilled else None, files, pool)
    finally:
        if spilled:
            await pool.run(clean_up, True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except HoldfastError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(f"the disk of {path.parent} is full") from error
        raise Unavailable(f"the temporary file {path} fails: {error.strerror or error}") from error
