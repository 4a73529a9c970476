"""Large bodies on their way into a disk store: received, hashed and written side by side, in bounded memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Digest
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.errors import NotFound
from holdfast.files import OsFiles
from holdfast.pool import ThreadPool
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.protocol import get_bytes

PIECES = 12
DATA = SeededRandomness(19).bytes(PIECES * PIECE_BYTES_MAX)
DIGEST = Digest.of(DATA)
PATIENCE_S = 30


class Watched(OsFiles):
    """Files whose writes wait for leave."""

    def __init__(self) -> None:
        self.leave = threading.Semaphore(0)
        self.written = 0
        self.begun: list[tuple[int, int]] = []

    def write(self, descriptor: int, data: Buffer) -> None:
        if len(data) == PIECE_BYTES_MAX:
            assert self.leave.acquire(timeout=PATIENCE_S), "a piece is only written when the next was asked for"
            self.written += 1
        super().write(descriptor, data)

    def write_back(self, descriptor: int, offset: int, size: int) -> None:
        self.begun.append((offset, size))
        super().write_back(descriptor, offset, size)


class House:
    """A store on watched files."""

    def __init__(self, root: Path) -> None:
        self.files = Watched()
        self.root = root
        self.pools = ThreadPool(2), ThreadPool(2)

    async def __aenter__(self) -> DiskStore:
        pool, sync_pool = self.pools
        await DiskStore.init(self.root, files=self.files, pool=pool, randomness=SeededRandomness(1))
        self.store = await DiskStore.open(
            self.root, files=self.files, pool=pool, sync_pool=sync_pool, clock=SystemClock()
        )
        return self.store

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        for pool in self.pools:
            pool.close()


async def test_the_next_piece_is_received_while_one_is_written_and_no_third(tmp_path: Path) -> None:
    house, ahead = House(tmp_path / "store"), []

    async def source() -> AsyncIterator[Buffer]:
        for number in range(PIECES):
            ahead.append(number - house.files.written)
            if number:
                house.files.leave.release()
            yield DATA[number * PIECE_BYTES_MAX : (number + 1) * PIECE_BYTES_MAX]
        house.files.leave.release()

    async with house as store:
        assert (await store.put(DIGEST, len(DATA), source())).new
        assert await get_bytes(store, DIGEST) == DATA
    assert max(ahead) <= 2, ahead
    assert house.files.begun == [(0, 8 << 20)], "the disk begins before the sync"


async def test_a_source_may_fill_its_buffer_again(tmp_path: Path) -> None:
    house, buffer = House(tmp_path / "store"), bytearray(PIECE_BYTES_MAX)

    async def source() -> AsyncIterator[Buffer]:
        for number in range(PIECES):
            buffer[:] = DATA[number * PIECE_BYTES_MAX : (number + 1) * PIECE_BYTES_MAX]
            if number:
                house.files.leave.release()
            yield memoryview(buffer) if number % 2 else buffer
        buffer[:] = bytes(len(buffer))
        house.files.leave.release()

    async with house as store:
        assert (await store.put(DIGEST, len(DATA), source())).new
        assert await get_bytes(store, DIGEST) == DATA


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another"])
async def test_a_put_that_is_called_off_leaves_the_file_to_who_uses_it(tmp_path: Path, others: int) -> None:
    """The thread that writes goes on; only then is the file closed and removed."""
    house, writing = House(tmp_path / "store"), asyncio.Semaphore(0)

    async def source(first: bytes) -> AsyncIterator[Buffer]:
        yield first
        writing.release()
        await asyncio.Event().wait()

    async with house as store:
        bodies = [bytes([number]) * PIECE_BYTES_MAX for number in range(others + 1)]
        puts = [
            asyncio.ensure_future(store.put(Digest.of(body + body), 2 * PIECE_BYTES_MAX, source(body)))
            for body in bodies
        ]
        for _ in puts:
            await writing.acquire()
        for put in puts:
            put.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
            for put in puts:
                put.cancel()  # again and again: it still waits
        assert not any(put.done() for put in puts)
        house.files.leave.release(len(puts))
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*puts, return_exceptions=True)
        )
        assert list((tmp_path / "store" / "incoming").iterdir()) == []
        assert store.space().incoming == 0
        with pytest.raises(NotFound):
            await get_bytes(store, Digest.of(bodies[0] + bodies[0]))
