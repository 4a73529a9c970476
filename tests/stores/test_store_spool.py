"""Sources put by: read again as often as wanted, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Digest, collect, pieces
from holdfast.clock import SeededRandomness
from holdfast.errors import NoSpace, TooLarge, Unavailable
from holdfast.files import OsFiles
from holdfast.pool import InlinePool, ThreadPool
from holdfast.stores.spool import spool
from holdfast.testing.faults import Fault, FaultyFiles

RANDOM = SeededRandomness(4)
POOL = InlinePool()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 3 * PIECE_BYTES_MAX + 7])
async def test_what_was_put_by_can_be_read_again(tmp_path: Path, size: int) -> None:
    data = RANDOM.bytes(size)
    pool = ThreadPool(2)
    async with spool(pieces(data), directory=tmp_path, files=OsFiles(), pool=pool, randomness=RANDOM) as spooled:
        assert (spooled.digest, spooled.size) == (Digest.of(data), size)
        for _ in range(2):
            assert await collect(spooled.open(), size) == data
        assert await asyncio.gather(*(collect(spooled.open(), size) for _ in range(3))) == [data] * 3
        assert len(list(tmp_path.iterdir())) == (size > 64 * 1024)
    assert list(tmp_path.iterdir()) == []
    pool.close()


async def test_small_pieces_and_reused_buffers(tmp_path: Path) -> None:
    data = RANDOM.bytes(300_000)

    async def source() -> AsyncIterator[Buffer]:
        buffer = bytearray(1000)
        for start in range(0, len(data), 1000):
            buffer[:] = data[start : start + 1000]
            yield buffer

    async with spool(
        source(), directory=tmp_path, files=OsFiles(), pool=POOL, randomness=RANDOM, memory_max=5000
    ) as spooled:
        assert await collect(spooled.open(), len(data)) == data


async def test_too_large_is_cut_off(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[Buffer]:
        while True:
            yield b"e" * 50_000

    with pytest.raises(TooLarge):
        async with spool(
            endless(), directory=tmp_path, files=OsFiles(), pool=POOL, randomness=RANDOM, size_max=200_000
        ):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "error", "kind"), [("write", errno.ENOSPC, NoSpace), ("create", 5, Unavailable)])
async def test_a_disk_that_refuses(tmp_path: Path, method: str, error: int, kind: type[Exception]) -> None:
    files = FaultyFiles(OsFiles())
    files.set(Fault(method, error))
    with pytest.raises(kind):
        async with spool(pieces(bytes(200_000)), directory=tmp_path, files=files, pool=POOL, randomness=RANDOM):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_left_when_the_user_of_it_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with spool(pieces(bytes(200_000)), directory=tmp_path, files=OsFiles(), pool=POOL, randomness=RANDOM):
            raise KeyError
    assert list(tmp_path.iterdir()) == []
