"""The disk store beside the file system doing the same calls: durable puts of four sizes, and one long stream."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from bench.measure import MIB, Rounds, Scale, alternate, seconds
from bench.report import Figure, ratio_at_least
from bench.threads import side_by_side
from holdfast.blob import Buffer, Digest, pieces
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.files import OsFiles
from holdfast.pool import ThreadPool
from holdfast.stores.disk.store import DiskStore

_SIZES = {4096: "4 KiB", 64 * 1024: "64 KiB", MIB: "1 MiB", 16 * MIB: "16 MiB"}
_WRITERS = (1, 16)
_GOAL = 0.7


def run(scale: Scale, directory: Path) -> list[Figure]:
    """Puts a second beside the bare calls, with a goal for 16 writers; the stream beside the slower of its parts."""
    figures = []
    for size, name in _SIZES.items():
        for writers in _WRITERS:
            count = max(2 * writers, min(scale.singles, 2 * scale.size // size) // writers * writers)
            ours, bare = _puts(directory, size, writers, count, scale.repeat)
            who = "1 writer" if writers == 1 else f"{writers} writers"
            figures.append(
                Figure(
                    f"durable puts of {name}, {who}",
                    ours.median,
                    "blobs/s",
                    limit=bare.median,
                    limit_name="the bare calls",
                    goal=ratio_at_least(_GOAL) if writers > 1 else None,
                    rounds=tuple(ours.values),
                    limit_rounds=tuple(bare.values),
                )
            )
    return [*figures, *_stream(scale, directory)]


def _puts(directory: Path, size: int, writers: int, count: int, repeat: int) -> tuple[Rounds, Rounds]:
    ours, bare = Rounds(), Rounds()
    bodies = [os.urandom(size) for _ in range(min(count, max(1, 256 * MIB // size)))]

    def body(number: int, round_: int) -> bytes:
        """Never the same twice: its first bytes say which it is."""
        return b"%016d%016d" % (round_, number) + bodies[number % len(bodies)][32:]

    def store(round_: int) -> None:
        blobs = [body(number, round_) for number in range(count)]
        ours.add(count / asyncio.run(_timed_store(directory / f"store-{round_}", blobs, writers)))

    def files(round_: int) -> None:
        blobs = [body(number, round_) for number in range(count)]
        bare.add(count / seconds(lambda: _bare(directory / f"bare-{size}-{writers}-{round_}", blobs, writers)))

    alternate(repeat, store, files)
    return ours, bare


async def _timed_store(root: Path, blobs: list[bytes], writers: int) -> float:
    """Seconds for all puts; the store is as empty directories are, in the time of neither side."""
    pool, sync_pool, files = ThreadPool(2), ThreadPool(16), OsFiles()
    root = root.with_name(f"{root.name}-{len(blobs[0])}-{writers}")
    await DiskStore.init(root, files=files, pool=pool, randomness=SystemRandomness())
    store = await DiskStore.open(root, files=files, pool=pool, sync_pool=sync_pool, clock=SystemClock())
    named = [(Digest.of(data), data) for data in blobs]
    waiting = iter(named)

    async def writer() -> None:
        for digest, data in waiting:
            await store.put(digest, len(data), pieces(data))

    async def all_writers() -> None:
        await asyncio.gather(*(writer() for _ in range(writers)))

    os.sync()
    clock = SystemClock()
    began = clock.monotonic()
    await all_writers()
    took = clock.monotonic() - began
    await store.delete([digest for digest, _ in named])
    await store.purge_trash(float("inf"))
    await store.close()
    pool.close()
    sync_pool.close()
    return took


def _bare(root: Path, blobs: list[bytes], writers: int) -> None:
    """The same: hash, write, fdatasync, link, fsync of one of 256 directories, unlink; a thread for each writer."""
    for number in range(256):
        (root / f"{number:02x}").mkdir(parents=True)
    waiting, lock = iter(enumerate(blobs)), threading.Lock()

    def work(_: int) -> None:
        while True:
            with lock:
                number, data = next(waiting, (-1, b""))
            if number < 0:
                return
            name = hashlib.sha256(data).hexdigest()
            temporary, directory = root / f"incoming-{number}", root / name[:2]
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
            os.close(descriptor)
            os.link(temporary, directory / name)
            descriptor = os.open(directory, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            os.unlink(temporary)

    side_by_side(writers, work)


def _stream(scale: Scale, directory: Path) -> list[Figure]:
    """One put of ``scale.size`` bytes, beside writing and syncing them, and beside hashing them."""
    data = memoryview(os.urandom(scale.size))
    digest = Digest.of(data)
    ours, disk, hashed = Rounds(), Rounds(), Rounds()
    amount = scale.size / 1e6

    async def source() -> AsyncIterator[Buffer]:
        for start in range(0, len(data), MIB):
            yield data[start : start + MIB]

    async def put(root: Path) -> float:
        pool, sync_pool, files = ThreadPool(2), ThreadPool(4), OsFiles()
        await DiskStore.init(root, files=files, pool=pool, randomness=SystemRandomness())
        store = await DiskStore.open(root, files=files, pool=pool, sync_pool=sync_pool, clock=SystemClock())
        os.sync()
        clock = SystemClock()
        began = clock.monotonic()
        await store.put(digest, len(data), source())
        took = clock.monotonic() - began
        await store.discard([digest])
        await store.close()
        pool.close()
        sync_pool.close()
        return took

    def write(path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        for start in range(0, len(data), MIB):
            os.write(descriptor, data[start : start + MIB])
        os.fdatasync(descriptor)
        os.close(descriptor)

    for number in range(scale.repeat):
        ours.add(amount / asyncio.run(put(directory / f"stream-{number}")))
        path = directory / f"written-{number}"
        disk.add(amount / seconds(lambda path=path: write(path)))  # type: ignore[misc]
        path.unlink()
        hashed.add(amount / seconds(lambda: hashlib.sha256(data).digest()))
    name, slower = ("the disk", disk) if disk.median < hashed.median else ("SHA-256", hashed)
    return [
        Figure(
            "put of one stream",
            ours.median,
            "MB/s",
            limit=slower.median,
            limit_name=name,
            goal=ratio_at_least(_GOAL),
            rounds=tuple(ours.values),
            limit_rounds=tuple(slower.values),
        )
    ]
