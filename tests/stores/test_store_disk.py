"""What a disk store promises beyond the contract: identity, trash, quarantine, space, one write for many puts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.blob import Buffer, Digest, pieces
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.errors import BadConfig, Corrupt, NoSpace, NotFound, Unavailable
from holdfast.files import AnyPath, OsFiles
from holdfast.pool import ThreadPool
from holdfast.stores.disk import changes as disk_changes
from holdfast.stores.disk.aside import AsideEntry
from holdfast.stores.disk.commit import DirectorySyncs
from holdfast.stores.disk.health import DiskHealth
from holdfast.stores.disk.store import DiskStore, Verdict
from holdfast.stores.protocol import FileSource, Info, get_bytes, put_bytes
from holdfast.testing.faults import FaultyFiles

RANDOM = SeededRandomness(11)


class Disk:
    """A store directory and what is needed to open it again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = FaultyFiles(OsFiles())
        self.pool = ThreadPool(2)
        self.sync_pool = ThreadPool(8)
        self.now = 1000.0
        self.opened: list[DiskStore] = []

    async def init(self) -> str:
        return await DiskStore.init(self.root, files=self.files, pool=self.pool, randomness=RANDOM)

    async def open(
        self, *, expected_id: str | None = None, capacity_bytes: int | None = None, reserve_bytes: int = 0
    ) -> DiskStore:
        store = await DiskStore.open(
            self.root,
            files=self.files,
            pool=self.pool,
            sync_pool=self.sync_pool,
            clock=SystemClock(),
            expected_id=expected_id,
            capacity_bytes=capacity_bytes,
            reserve_bytes=reserve_bytes,
            trash_clock=lambda: self.now,
        )
        self.opened.append(store)
        return store

    def path(self, digest: Digest) -> Path:
        return self.root / "objects" / digest.hex()[:2] / digest.hex()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    disk = Disk(tmp_path / "store")
    await disk.init()
    yield disk
    for store in disk.opened:
        await store.close()
    disk.pool.close()
    disk.sync_pool.close()


@pytest.fixture
async def store(disk: Disk) -> DiskStore:
    return await disk.open()


# -- identity


async def test_a_store_has_an_id_that_lies_in_it(disk: Disk) -> None:
    first = await disk.open()
    assert len(bytes.fromhex(first.id)) == 16
    await first.close()
    assert (await disk.open(expected_id=first.id)).id == first.id


async def test_another_or_no_store_asks_for_the_mount(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="right disk mounted"):
        await disk.open(expected_id="0" * 32)
    disk.root = tmp_path
    with pytest.raises(BadConfig, match="Is the disk mounted"):
        await disk.open()
    disk.root = tmp_path / "missing"
    with pytest.raises(BadConfig, match="Is the disk mounted"):
        await disk.open()
    disk.root = tmp_path / "store"
    with pytest.raises(BadConfig, match="holds a store already"):
        await disk.init()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"version": 2, "store_id": "' + b"0" * 32 + b'"}', b'{"version": 1, "store_id": "zz"}', b"x" * 9999],
)
async def test_a_damaged_layout_is_refused(disk: Disk, content: bytes) -> None:
    (disk.root / "layout.json").write_bytes(content)
    with pytest.raises(BadConfig):
        await disk.open()


async def test_a_store_is_open_once(disk: Disk, store: DiskStore) -> None:
    with pytest.raises(BadConfig, match="in use"):
        await disk.open()
    await store.close()
    await disk.open()


async def test_a_closed_store_is_unavailable(store: DiskStore) -> None:
    await store.close()
    with pytest.raises(Unavailable):
        await put_bytes(store, b"late")
    with pytest.raises(Unavailable):
        await get_bytes(store, Digest.of(b"late"))


async def test_directories_and_files_are_private(disk: Disk, store: DiskStore) -> None:
    await put_bytes(store, b"secret")
    path = disk.path(Digest.of(b"secret"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert {directory.stat().st_mode & 0o777 for directory in path.parents if directory.is_relative_to(disk.root)} == {
        0o700
    }
    assert path.stat().st_nlink == 1


# -- many puts


async def test_equal_puts_at_once_are_one_write(disk: Disk, store: DiskStore) -> None:
    for size in (3000, 300_000):
        data = RANDOM.bytes(size)
        disk.files.clear()
        answers = await asyncio.gather(*(put_bytes(store, data) for _ in range(20)))
        assert sum(stored.new for stored in answers) == 1
        assert (disk.files.count("create"), disk.files.count("link"), disk.files.count("sync")) == (1, 1, 1)


async def test_a_known_large_blob_is_not_read_again(store: DiskStore) -> None:
    data = RANDOM.bytes(100_000)
    await put_bytes(store, data)

    async def untouched() -> AsyncIterator[Buffer]:
        raise AssertionError("the source was read")
        yield b""

    assert not (await store.put(Digest.of(data), len(data), untouched())).new


async def test_a_copy_found_at_the_start_is_synced_once_before_it_counts(disk: Disk) -> None:
    store = await disk.open()
    data = RANDOM.bytes(100_000)
    await put_bytes(store, data)
    await store.close()
    store = await disk.open()
    disk.files.clear()
    assert not (await put_bytes(store, data)).new
    assert disk.files.count("sync_directory") == 1
    disk.files.clear()
    assert not (await put_bytes(store, data)).new
    assert disk.files.count("sync_directory") == 0


async def test_directory_syncs_are_shared_by_who_comes_while_one_runs() -> None:
    entered, go = threading.Semaphore(0), threading.Semaphore(0)
    begun: list[AnyPath] = []

    class SlowSync(OsFiles):
        def sync_directory(self, path: AnyPath) -> None:
            begun.append(path)
            entered.release()
            go.acquire()

    syncs = DirectorySyncs(SlowSync(), DiskHealth("here"))
    pool = ThreadPool(12)
    path = Path("/somewhere")
    first = asyncio.ensure_future(pool.run(syncs.sync, path))
    await pool.run(entered.acquire)
    later = [asyncio.ensure_future(pool.run(syncs.sync, path)) for _ in range(8)]
    while not syncs._next:  # noqa: ASYNC110 - until a thread has come to lead the second turn
        await asyncio.sleep(0)
    go.release()
    await first
    await pool.run(entered.acquire)
    try:
        assert not any(task.done() for task in later), "a sync that began before the change does not count"
    finally:
        go.release(9)
    await asyncio.gather(*later)
    assert 2 <= len(begun) <= 9
    pool.close()


# -- the name is not trusted


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_wrong_bytes_under_the_name_are_quarantined_and_written_anew(
    disk: Disk, store: DiskStore, size: int
) -> None:
    data = RANDOM.bytes(size)
    digest = Digest.of(data)
    await put_bytes(store, data)
    disk.path(digest).write_bytes(data[:-5])
    assert (await put_bytes(store, data)).new
    assert await get_bytes(store, digest) == data
    assert [(entry.digest, entry.size) for entry in store.quarantined()] == [(digest, size - 5)]
    assert store.space().quarantine == size - 5


async def test_an_empty_file_at_the_start_is_no_blob(disk: Disk) -> None:
    store = await disk.open()
    await put_bytes(store, b"torn")
    await put_bytes(store, b"")
    await store.close()
    disk.path(Digest.of(b"torn")).write_bytes(b"")
    (disk.root / "clean.json").unlink()  # after a power cut
    store = await disk.open()
    assert await store.stat([Digest.of(b"torn"), Digest.of(b"")]) == [None, Info(Digest.of(b""), 0)]
    assert (await put_bytes(store, b"torn")).new


async def test_verify_finds_a_flipped_bit(disk: Disk, store: DiskStore) -> None:
    data = bytearray(RANDOM.bytes(70_000))
    digest = Digest.of(data)
    await put_bytes(store, bytes(data))
    assert await store.verify(digest) is Verdict.RIGHT
    data[6000] ^= 4
    disk.path(digest).write_bytes(data)
    verdict = await store.verify(digest)
    assert verdict is Verdict.QUARANTINED
    assert not verdict
    with pytest.raises(NotFound):
        await get_bytes(store, digest)
    with pytest.raises(NotFound):
        await store.verify(digest)


# -- trash


async def test_trash_keeps_restores_and_is_purged_by_age(disk: Disk, store: DiskStore) -> None:
    old, young = RANDOM.bytes(100), RANDOM.bytes(200)
    for data in (old, young):
        await put_bytes(store, data)
        await store.delete([Digest.of(data)])
        disk.now += 100
    assert [(entry.digest, entry.since) for entry in store.trash()] == [
        (Digest.of(old), 1000),
        (Digest.of(young), 1100),
    ]
    assert (store.space().used, store.space().trash) == (0, 300)
    assert (await store.purge_trash(1100)).size == 100
    with pytest.raises(NotFound):
        await store.restore(Digest.of(old))
    assert await store.restore(Digest.of(young)) == Info(Digest.of(young), 200)
    assert await store.restore(Digest.of(young)) == Info(Digest.of(young), 200)
    assert await get_bytes(store, Digest.of(young)) == young
    assert (store.space().used, store.space().trash) == (200, 0)


async def test_trash_is_found_again_at_the_start(disk: Disk) -> None:
    store = await disk.open()
    await put_bytes(store, b"gone")
    await store.delete([Digest.of(b"gone")])
    await store.close()
    disk.now += 50
    store = await disk.open()
    assert [(entry.size, entry.since) for entry in store.trash()] == [(4, 1000)]
    await store.restore(Digest.of(b"gone"))
    assert await get_bytes(store, Digest.of(b"gone")) == b"gone"


async def test_deleted_put_again_deleted_again(disk: Disk, store: DiskStore) -> None:
    digest = Digest.of(b"again")
    for _ in range(3):
        assert (await put_bytes(store, b"again")).new
        assert (store.space().used, store.space().trash) == (5, 0)
        await store.delete([digest])
        assert (store.space().used, store.space().trash) == (0, 5)
        disk.now += 7
    assert len(list((disk.root / "trash").iterdir())) == 1


async def test_many_deletes_share_the_sync_of_the_trash(disk: Disk, store: DiskStore) -> None:
    blobs = [RANDOM.bytes(20) for _ in range(40)]
    for data in blobs:
        await put_bytes(store, data)
    disk.files.clear()
    await store.delete([Digest.of(data) for data in blobs])
    syncs = [call.paths[0] for call in disk.files.calls if call.method == "sync_directory"]
    assert syncs.count(disk.root / "trash") == 1
    assert len(store.trash()) == 40


async def test_a_put_leaves_in_trash_what_was_deleted_since_it_made_the_name(store: DiskStore) -> None:
    data = RANDOM.bytes(500)
    trash = store._changes.trash
    find = trash.find

    def delete_and_find(digest: Digest) -> AsideEntry | None:
        trash.find = find  # type: ignore[method-assign]
        store._changes.delete([digest])
        return find(digest)

    trash.find = delete_and_find  # type: ignore[method-assign]
    digest = (await put_bytes(store, data)).digest
    await store.restore(digest)
    assert await get_bytes(store, digest) == data


async def test_deletes_restores_and_puts_at_once_lose_nothing(store: DiskStore) -> None:
    data = RANDOM.bytes(500)
    digest = Digest.of(data)

    async def restore() -> None:
        with contextlib.suppress(NotFound):
            await store.restore(digest)

    await put_bytes(store, data)
    for _ in range(15):
        await asyncio.gather(
            store.delete([digest]), restore(), store.delete([digest]), put_bytes(store, data), restore()
        )
        await restore()
        assert await get_bytes(store, digest) == data
        assert store.space().used == 500


# -- space


async def test_capacity_counts_what_lies_in_trash_and_what_is_on_its_way(disk: Disk) -> None:
    store = await disk.open(capacity_bytes=1000)
    await put_bytes(store, RANDOM.bytes(400))
    trashed = RANDOM.bytes(300)
    await put_bytes(store, trashed)
    await store.delete([Digest.of(trashed)])
    assert store.space().available == 300
    begun, waiting = asyncio.Event(), asyncio.Event()
    slow = RANDOM.bytes(250)

    async def body() -> AsyncIterator[Buffer]:
        begun.set()
        await waiting.wait()
        yield slow

    async def untouched() -> AsyncIterator[Buffer]:
        raise AssertionError("the body was read")
        yield b""

    put = asyncio.ensure_future(store.put(Digest.of(slow), 250, body()))
    await begun.wait()
    with pytest.raises(NoSpace, match="do not fit"):
        await store.put(Digest(RANDOM.bytes(32)), 51, untouched())
    waiting.set()
    await put
    assert (store.space().used, store.space().incoming) == (650, 0)
    with pytest.raises(NoSpace):
        await store.put(Digest(RANDOM.bytes(32)), 51, untouched())
    await store.purge_trash(9e9)
    await put_bytes(store, RANDOM.bytes(51))


async def test_the_reserve_is_left_to_others(disk: Disk) -> None:
    store = await disk.open(reserve_bytes=1 << 60)
    with pytest.raises(NoSpace, match="reserve"):
        await put_bytes(store, b"x")
    assert list((disk.root / "incoming").iterdir()) == []


async def test_a_known_blob_is_acknowledged_by_a_full_store(disk: Disk) -> None:
    store = await disk.open(capacity_bytes=10)
    await put_bytes(store, b"0123456789")
    assert not (await put_bytes(store, b"0123456789")).new


async def test_space_is_counted_again_at_the_start(disk: Disk) -> None:
    store = await disk.open()
    for number in range(20):
        await put_bytes(store, bytes(number))
    await store.delete([Digest.of(bytes(7))])
    await store.quarantine(Digest.of(bytes(9)), "a test")
    before = store.space()
    await store.close()
    after = (await disk.open()).space()
    assert (before.used, before.trash, before.quarantine) == (190 - 16, 7, 9)
    assert (after.used, after.trash, after.quarantine) == (before.used, before.trash, before.quarantine)


async def test_start_sweeps_incoming(disk: Disk) -> None:
    (disk.root / "incoming" / "0").write_bytes(b"left over")
    await disk.open()
    assert list((disk.root / "incoming").iterdir()) == []


# -- files


async def test_open_file_serves_sendfile_and_sees_another_size(disk: Disk, store: DiskStore) -> None:
    assert isinstance(store, FileSource)
    await put_bytes(store, b"served")
    found = await store.open_file(Digest.of(b"served"))
    with found.file as file:
        assert os.fstat(file.fileno()).st_size == found.size == 6
        assert file.read() == b"served"
    with pytest.raises(Corrupt):
        await store.open_file(Digest.of(b"served"), size=7)
    with pytest.raises(NotFound):
        await store.open_file(Digest.of(b"missing"))


async def test_foreign_names_are_passed_over(disk: Disk) -> None:
    store = await disk.open()
    await put_bytes(store, b"mine")
    directory = disk.path(Digest.of(b"mine")).parent
    await store.close()
    (directory / "notes.txt").write_text("x")
    (directory / ("0" * 64)).write_text("in the wrong directory")
    (disk.root / "objects" / "lost+found").mkdir()
    (disk.root / "trash" / "README").write_text("x")
    store = await disk.open()
    assert await store.list(None, 10) == [Info(Digest.of(b"mine"), 4)]
    assert store.space().used == 4


async def test_no_descriptor_is_left_behind(store: DiskStore) -> None:
    data = RANDOM.bytes(3_000_000)
    await put_bytes(store, data)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with store.get(Digest.of(data)) as body:
            async for _piece in body:
                break
        reader = asyncio.ensure_future(get_bytes(store, Digest.of(data)))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        put = asyncio.ensure_future(store.put(Digest.of(b"no"), 2_000_000, pieces(data[:2_000_000])))
        await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_page_reads_only_the_directories_it_needs(disk: Disk, store: DiskStore) -> None:
    for number in range(60):
        await put_bytes(store, bytes([number]))
    disk.files.clear()
    assert len(await store.list(None, 3)) == 3
    assert disk.files.count("list") < 15
    assert disk.files.count("size") == 3


@pytest.mark.parametrize("clean", [True, False])
async def test_what_is_held_is_known_after_any_stop_while_it_changes(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    """After a clean stop nothing is counted; after another one, only little before the store serves."""
    monkeypatch.setattr(disk_changes, "COUNT_AT_START", 10)
    blobs = [bytes([number]) * (number + 1) for number in range(200)]
    store = await disk.open()
    for data in blobs:
        await put_bytes(store, data)
    held = store.space().used
    await store.close()
    if clean:
        monkeypatch.setattr(disk_changes.DiskChanges, "count", None)
    else:
        (disk.root / "clean.json").unlink()
    store = await disk.open()
    assert not (disk.root / "clean.json").exists(), "the next stop may not be clean"
    assert (store.space().used == held) == clean
    more = [b"more" * number for number in range(1, 40)]
    await asyncio.gather(
        *(put_bytes(store, data) for data in more),
        store.delete([Digest.of(data) for data in blobs[:50]]),
        *(store.quarantine(Digest.of(data), "a test") for data in blobs[50:60]),
    )
    await store.restore(Digest.of(blobs[0]))
    if store._counting is not None:
        await store._counting
    listed = {info.digest: info.size for info in await store.list(None, 1000)}
    assert len(listed) == 200 - 60 + 1 + len(more)
    space = store.space()
    assert space.used == sum(listed.values())
    assert space.trash == sum(len(data) for data in blobs[1:50])
    await store.close()
