"""The conformance suite on every store of this room and its wrapper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.files import OsFiles
from holdfast.pool import InlinePool, ThreadPool
from holdfast.stores.contract import CHECKS, Harness, Peek, check_scale
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.memory import MemoryStore
from holdfast.stores.verified import VerifiedStore
from holdfast.testing.crash_disk import CrashDisk
from holdfast.testing.store_suite import StoreSuite

RANDOM = SeededRandomness(7)


@asynccontextmanager
async def disk_store(root: Path) -> AsyncIterator[tuple[DiskStore, ThreadPool]]:
    files, pool, sync_pool = OsFiles(), ThreadPool(2), ThreadPool(4)
    await DiskStore.init(root, files=files, pool=pool, randomness=RANDOM)
    store = await DiskStore.open(root, files=files, pool=pool, sync_pool=sync_pool, clock=SystemClock())
    try:
        yield store, pool
    finally:
        await store.close()
        pool.close()
        sync_pool.close()


def looker(root: Path) -> Peek:
    async def peek(digest: Digest) -> bytes | None:
        path = root / "objects" / digest.hex()[:2] / digest.hex()
        return path.read_bytes() if path.exists() else None

    return peek


class TestMemoryStore(StoreSuite):
    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        yield Harness(MemoryStore(), RANDOM)


class TestDiskStore(StoreSuite):
    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        async with disk_store(tmp_path / "store") as (store, _):
            yield Harness(store, RANDOM, peek=looker(tmp_path / "store"))
            assert list((tmp_path / "store" / "incoming").iterdir()) == []


class TestVerifiedDiskStore(StoreSuite):
    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        async with disk_store(tmp_path / "store") as (store, pool):
            yield Harness(VerifiedStore(store, pool), RANDOM, peek=looker(tmp_path / "store"))


class TestDiskStoreOnCrashDisk(StoreSuite):
    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        disk, pool, root = CrashDisk(RANDOM), InlinePool(), Path("/store")
        await DiskStore.init(root, files=disk, pool=pool, randomness=RANDOM)
        store = await DiskStore.open(root, files=disk, pool=pool, clock=SystemClock())
        yield Harness(store, RANDOM)
        assert disk.list(root / "incoming") == []
        await store.close()


def test_the_list_of_checks_is_complete() -> None:
    assert len(CHECKS) >= 20
    assert all(check.__doc__ for check in CHECKS.values())


@pytest.mark.slow  # as many durable puts as lists must be able to tell
@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_list_of_100_000_blobs(tmp_path: Path, kind: str) -> None:
    if kind == "memory":
        await check_scale(Harness(MemoryStore(), RANDOM))
        return
    async with disk_store(tmp_path / "store") as (store, _):
        await check_scale(Harness(store, RANDOM), at_once=16)
