"""The disk refuses at every call in turn: the client sees an error or the data is there, and no sync is tried twice."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.errors import BadConfig, Corrupt, HoldfastError, NoSpace, NotFound, StorePoisoned, Unavailable
from holdfast.pool import InlinePool
from holdfast.stores.ballast import BALLAST_BYTES
from holdfast.stores.disk.store import DiskStore, Verdict
from holdfast.stores.protocol import get_bytes, put_bytes
from holdfast.testing.crash_disk import CrashDisk
from holdfast.testing.faults import SHORT_WRITE, Fault, FaultyFiles

ROOT = Path("/data/store")
POOL = InlinePool()
SMALL = b"small" * 100
LARGE = SeededRandomness(3).bytes(2_500_000)
OTHER = b"was here before"


async def fresh() -> tuple[DiskStore, FaultyFiles, CrashDisk]:
    disk = CrashDisk(SeededRandomness(1))
    files = FaultyFiles(disk)
    await DiskStore.init(ROOT, files=files, pool=POOL, randomness=SeededRandomness(2))
    return await reopened(files), files, disk


async def reopened(files: FaultyFiles | CrashDisk) -> DiskStore:
    return await DiskStore.open(ROOT, files=files, pool=POOL, clock=SystemClock(), trash_clock=lambda: 9.0)


async def put_small(store: DiskStore) -> None:
    await put_bytes(store, SMALL)


async def put_large(store: DiskStore) -> None:
    await put_bytes(store, LARGE)


async def delete(store: DiskStore) -> None:
    await store.delete([Digest.of(OTHER)])


async def restore(store: DiskStore) -> None:
    await store.restore(Digest.of(OTHER))


async def purge(store: DiskStore) -> None:
    await store.purge_trash(100.0)


async def quarantine(store: DiskStore) -> None:
    await store.quarantine(Digest.of(OTHER), "a test")


Operation = Callable[[DiskStore], Awaitable[None]]
OPERATIONS: list[Operation] = [put_small, put_large, delete, restore, purge, quarantine]
CHANGING = ["create", "write", "sync", "close", "link", "rename", "unlink", "make_directory", "sync_directory"]
BROKEN = [errno.EIO, errno.EROFS]
FULL = [errno.ENOSPC, errno.EDQUOT]


async def prepared(operation: Operation) -> tuple[DiskStore, FaultyFiles, CrashDisk]:
    store, files, disk = await fresh()
    await put_bytes(store, OTHER)
    if operation in (restore, purge):
        await store.delete([Digest.of(OTHER)])
    files.clear()
    return store, files, disk


async def points(operation: Operation) -> list[tuple[str, int]]:
    """Every changing call that the operation makes."""
    store, files, _ = await prepared(operation)
    await operation(store)
    return [(method, number) for method in CHANGING for number in range(files.count(method))]


async def holds(store: DiskStore, data: bytes) -> bool:
    try:
        assert await get_bytes(store, Digest.of(data)) == data
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("error", [*BROKEN, *FULL, errno.EACCES, SHORT_WRITE])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_fault_at_every_call(operation: Operation, error: int) -> None:
    for method, number in await points(operation):
        if error == SHORT_WRITE and method != "write":
            continue
        store, files, disk = await prepared(operation)
        fault = files.set(Fault(method, error, first=number))
        where = f"{method} {number}"
        refused: HoldfastError | None = None
        try:
            await operation(store)
        except HoldfastError as raised:
            refused = raised
        answered = refused is None
        if refused is not None and error in BROKEN:
            assert isinstance(refused, StorePoisoned), where
        elif refused is not None and error != errno.EACCES:  # a full disk; fatal only to a directory
            assert isinstance(refused, StorePoisoned if method == "sync_directory" else NoSpace), where
        assert fault.hit == 1, where
        assert list(files.syncs_after_a_failure()) == [], f"{where}: synced again after a failed sync"
        if error in BROKEN or method == "sync_directory" or (method == "sync" and error == errno.EACCES):
            assert store.poisoned, where
            for attempt in (put_bytes(store, b"later"), store.delete([Digest.of(OTHER)])):
                with pytest.raises(StorePoisoned):
                    await attempt
            if operation in (put_small, put_large):
                assert await holds(store, OTHER), "a poisoned store reads on"
        else:
            assert store.poisoned is None, where
            await put_bytes(store, b"later")
            if not answered:
                files.clear()
                await operation(store)  # once the fault is over, the same call succeeds
                answered = True
            assert files.inner.list(ROOT / "incoming") == [] or method == "unlink", where
        assert store.space().incoming == 0, where
        await store.close()
        for _ in range(2):  # as it is, then after a power cut
            store = await reopened(disk)
            assert disk.list(ROOT / "incoming") == []
            if operation in (put_small, put_large):
                data = SMALL if operation is put_small else LARGE
                assert await holds(store, data) or not answered, f"{where}: answered and not there"
                assert await holds(store, OTHER)
            elif operation is restore and answered:
                assert await holds(store, OTHER), where
            elif operation is delete:
                if answered:
                    assert not await holds(store, OTHER), where
                    await store.restore(Digest.of(OTHER))
                    await store.delete([Digest.of(OTHER)])
                else:
                    assert await holds(store, OTHER) or [entry.digest for entry in store.trash()] == [Digest.of(OTHER)]
            seen = sum(info.size for info in await store.list(None, 1000))
            assert store.space().used == seen, where
            await store.close()
            disk.cut_power()


async def test_what_a_put_costs() -> None:
    store, files, _ = await fresh()
    files.clear()
    await put_bytes(store, SMALL)
    assert (files.count("sync"), files.count("sync_directory")) == (1, 1)
    assert len(files.calls) < 12, [call.method for call in files.calls]
    files.clear()
    assert not (await put_bytes(store, SMALL)).new
    assert [call.method for call in files.calls] == ["size"]


async def test_a_full_disk_leaves_nothing_and_deletes_work() -> None:
    disk = CrashDisk(SeededRandomness(1), total_bytes=1_000_000)
    await DiskStore.init(ROOT, files=disk, pool=POOL, randomness=SeededRandomness(2))
    store = await reopened(disk)
    random, kept = SeededRandomness(5), []
    refused = 0
    while refused < 3:
        data = random.bytes(90_000)
        try:
            await put_bytes(store, data)
            kept.append(data)
        except NoSpace:
            refused += 1
    assert len(kept) == 11
    assert disk.list(ROOT / "incoming") == []
    assert store.poisoned is None
    for data in kept:
        assert await holds(store, data)
    await store.delete([Digest.of(kept[0])])
    assert (await store.purge_trash(100.0)).blobs == 1
    await put_bytes(store, random.bytes(90_000))
    await store.close()


async def test_a_disk_filled_by_others_while_the_body_comes() -> None:
    store, files, disk = await fresh()
    files.set(Fault("write", SHORT_WRITE, first=1))
    with pytest.raises(NoSpace):
        await put_large(store)
    assert disk.list(ROOT / "incoming") == []
    assert (await put_bytes(store, LARGE)).new


async def test_reads_of_a_broken_disk_are_unavailable_not_wrong() -> None:
    store, files, _ = await fresh()
    await put_large(store)
    for method in ("open", "read", "size"):
        files.set(Fault(method))
        with pytest.raises(Unavailable):
            await get_bytes(store, Digest.of(LARGE))
        files.clear()
    files.set(Fault("read", first=2))
    with pytest.raises(Unavailable):
        await get_bytes(store, Digest.of(LARGE))
    assert store.poisoned is None
    for method in ("list", "size"):
        files.clear()
        files.set(Fault(method))
        with pytest.raises(Unavailable):
            await store.list(None, 10)


async def test_verify_believes_one_bad_read_no_more_than_one_good_one() -> None:
    store, files, _ = await fresh()
    await put_large(store)
    assert await store.verify(Digest.of(LARGE)) is Verdict.RIGHT
    files.set(Fault("read", errno.EIO))
    assert await store.verify(Digest.of(LARGE)) is Verdict.RIGHT_AT_SECOND_READ
    files.clear()
    files.set(Fault("open", errno.EMFILE, times=9))  # no word about the blob
    with pytest.raises(Unavailable):
        await store.verify(Digest.of(LARGE))
    files.clear()
    files.set(Fault("read", errno.EIO, times=9))
    assert await store.verify(Digest.of(LARGE)) is Verdict.QUARANTINED
    files.clear()
    assert [entry.digest for entry in store.quarantined()] == [Digest.of(LARGE)]
    with pytest.raises(NotFound):
        await store.verify(Digest.of(LARGE))
    assert (await put_bytes(store, LARGE)).new


async def test_a_disk_that_refuses_at_the_start_is_a_bad_mount() -> None:
    store, files, _ = await fresh()
    await put_bytes(store, OTHER)
    await store.close()
    for method in ("open", "list", "size", "space"):
        files.clear()
        files.set(Fault(method))
        with pytest.raises(BadConfig):
            await reopened(files)
    files.clear()
    store = await reopened(files)  # and the lock was given back each time
    await store.close()


async def test_a_truncated_file_is_corrupt_in_the_middle_of_a_read() -> None:
    store, _, disk = await fresh()
    await put_large(store)
    path = ROOT / "objects" / Digest.of(LARGE).hex()[:2] / str(Digest.of(LARGE))
    with pytest.raises(Corrupt):  # noqa: PT012 - the cut happens while the body is read
        async with store.get(Digest.of(LARGE)) as body:
            async for _ in body:
                disk._file(path).seen[100:] = b""
    with pytest.raises(Corrupt):
        await store.open_file(Digest.of(LARGE), size=len(LARGE))


async def test_a_delete_finds_room_on_a_disk_that_others_filled() -> None:
    disk = CrashDisk(SeededRandomness(1), total_bytes=10 * BALLAST_BYTES)
    files = FaultyFiles(disk)
    await DiskStore.init(ROOT, files=files, pool=POOL, randomness=SeededRandomness(2))

    async def opened() -> DiskStore:
        return await DiskStore.open(ROOT, files=files, pool=POOL, clock=SystemClock(), ballast_bytes=BALLAST_BYTES)

    store = await opened()
    ballast = ROOT / "ballast"
    blobs = [b"first", b"second", b"third"]
    for data in blobs:
        await put_bytes(store, data)
    assert disk.size(ballast) == BALLAST_BYTES
    files.set(Fault("link", errno.ENOSPC))
    with pytest.raises(NoSpace):
        await put_bytes(store, b"more")
    assert disk.size(ballast) == BALLAST_BYTES, "a put gets none of it"
    for what in (store.delete([Digest.of(b"first")]), store.quarantine(Digest.of(b"second"), "a test")):
        files.set(Fault("link", errno.ENOSPC))
        await what
        assert disk.size(ballast) is None
        await store.purge_trash(float("inf"))  # where there is room again, it is made again
        assert disk.size(ballast) == BALLAST_BYTES
    files.set(Fault("link", errno.ENOSPC, times=2))  # others were quicker
    with pytest.raises(NoSpace):
        await store.delete([Digest.of(b"third")])
    assert store.poisoned is None
    assert await holds(store, b"third")
    files.set(Fault("allocate", errno.ENOSPC))
    await store.purge_trash(float("inf"))
    assert disk.size(ballast) is None, "no half of one"
    await store.close()
    await (await opened()).close()
    assert disk.size(ballast) == BALLAST_BYTES
    foreign = disk.create(Path("/data/foreign"))
    disk.write(foreign, bytes(disk.space(ROOT).free))
    disk.close(foreign)
    store = await opened()  # a full disk at the start: now or never
    assert disk.size(ballast) is None
    await store.delete([Digest.of(b"third")])
    await store.close()
