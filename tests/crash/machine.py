"""A machine whose power is cut: a node and an outbox on one loop disk, written to by clients, held to what was said."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.loop_disk import LoopDisk
from tests.node.house import VAULT, Coordinator, House, pack

from holdfast.auth.grants import Receipt
from holdfast.blob import Digest, collect
from holdfast.errors import HoldfastError, NotFound
from holdfast.files import Files, OsFiles
from holdfast.outbox import Outbox, State, http
from holdfast.pool import ThreadPool
from holdfast.wire import routes
from holdfast.wire.network import TcpNetwork

WRITERS = 4
SIZES = (128, 700, 4096, 60_000, 90_000, 300_000)
QUEUED_SIZES = (10, 20_000)  # within its row, and in a file of its own
PUT_GONE, TRASH_GONE, BODY_GONE = "a put is not there", "a deleted blob is not in trash", "its body is not right"
WRITE_S_MAX = 5.0
"""On a machine so slow that the acknowledgements waited for do not come."""
CUTS_OF_A_DISK = 25
"""Then the disk is made anew, so that it never gets full."""


@dataclass
class Told:
    """What was said before the power went: of each blob its size, of each queued write its body."""

    kept: dict[Digest, int] = field(default_factory=dict)
    trashed: dict[Digest, int] = field(default_factory=dict)
    going: set[Digest] = field(default_factory=set)  # a delete that was never answered: here or in trash
    queued: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Found:
    """Sums over all cuts."""

    cuts: int = 0
    acknowledged: int = 0
    deleted: int = 0
    queued: int = 0
    queued_files: int = 0  # of them, bodies that have a file of their own
    lost: int = 0
    lost_queued: int = 0
    torn: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cuts} cuts: {self.acknowledged} puts, {self.deleted} deletes and {self.queued} queued writes "
            f"acknowledged; {self.lost + self.lost_queued} lost {dict(self.kinds)}, {self.torn} torn {self.details[:5]}"
        )

    def check(self, right: bool, what: str, digest: Digest) -> None:
        if not right:
            self.lost += 1
            self.kinds[what] += 1
            self.details.append(f"cut {self.cuts}: {what}: {digest}")


class Machine:
    """Use as ``async with``. ``node_elsewhere``: a directory off the disk, for all of the node but its store."""

    def __init__(
        self, disk: LoopDisk, seed: int, *, files: Files | None = None, node_elsewhere: Path | None = None
    ) -> None:
        self.found = Found()
        self._disk = disk
        self._files = files or OsFiles()
        self._node_elsewhere = node_elsewhere
        self._random = random.Random(seed)
        self._network = TcpNetwork()
        self._coordinator = Coordinator(self._network)
        self._pool = ThreadPool(4, "machine")
        self._house: House | None = None
        self._outbox: Outbox | None = None
        self._told = Told()
        self._disks = 0
        self._number = 0
        self._wanted = 0
        self._dark = False
        """What is said then, nobody hears of a machine without power. (A sync that the shutdown ioctl meets under way
        may even succeed.)"""
        self._enough = asyncio.Event()

    async def __aenter__(self) -> Machine:
        await self._coordinator.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(HoldfastError):
            await self._die()
        await self._coordinator.service.stop(1)
        self._pool.close()
        await asyncio.to_thread(self._disk.unmount)

    async def cut(self) -> None:
        """One cut: everybody writes, the power goes at some moment, everything starts again and is compared."""
        if self.found.cuts % CUTS_OF_A_DISK == 0:
            await self._new_disk()
        told = Told()
        self._enough.clear()
        self._wanted = self._random.randrange(10, 60)
        writers = [asyncio.ensure_future(self._write(told)) for _ in range(WRITERS)]
        writers.append(asyncio.ensure_future(self._queue(told)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._enough.wait(), WRITE_S_MAX)
        await asyncio.sleep(self._random.uniform(0, 0.01))
        self._dark = True
        await asyncio.to_thread(self._disk.cut)
        await asyncio.gather(*writers)
        await self._die()
        self._dark = False
        await asyncio.to_thread(self._disk.unmount)
        await asyncio.to_thread(self._disk.mount)
        self.found.cuts += 1
        self.found.acknowledged += len(told.kept) + len(told.trashed)
        self.found.deleted += len(told.trashed)
        self.found.queued += len(told.queued)
        self.found.queued_files += sum(len(body) == max(QUEUED_SIZES) for body in told.queued.values())
        self.found.torn += await asyncio.to_thread(self._torn)
        await self._start()
        await self._compare(told)
        self._told.kept |= told.kept
        self._told.queued |= told.queued
        if self.found.cuts % CUTS_OF_A_DISK == 0:  # what earlier cuts left, too
            await self._compare(self._told)

    # -- life

    async def _new_disk(self) -> None:
        await self._die()
        await asyncio.to_thread(self._disk.unmount)
        await asyncio.to_thread(self._disk.make)
        await asyncio.to_thread(self._disk.mount)
        self._told = Told()
        self._disks += 1
        base = self._node_elsewhere or self._disk.path
        self._house = House(
            base / f"node-{self._disks}",
            self._coordinator,
            self._network,
            self._pool,
            files=self._files,
            elsewhere=self._disk.path / "store" if self._node_elsewhere else None,
        )
        await self._house.make()
        await self._start()
        await asyncio.to_thread(self._disk.settle)

    async def _start(self) -> None:
        assert self._house is not None
        await self._house.start()
        self._outbox = await Outbox.open(self._disk.path / "outbox", seed=bytes(32), files=self._files)

    async def _die(self) -> None:
        """Every process of this machine ends without a word."""
        if self._outbox is not None:
            with contextlib.suppress(Exception):  # its disk is gone
                await self._outbox.close()
        if self._house is not None and self._house.node is not None:
            await self._house.crash()
            for client in self._house._clients.values():
                await client.close()
            self._house._clients.clear()

    # -- writers

    async def _write(self, told: Told) -> None:
        """Puts, and now and then a delete, until the power goes."""
        house = self._house
        assert house is not None
        mine: list[Receipt] = []
        with contextlib.suppress(HoldfastError):
            while True:
                self._number += 1
                receipt = await house.put(pack(VAULT.id, self._random.choice(SIZES), self._number))
                if self._dark:
                    return
                told.kept[receipt.digest] = receipt.size
                if len(told.kept) >= self._wanted:
                    self._enough.set()
                mine.append(receipt)
                if len(mine) > 2 and self._random.random() < 0.3:
                    await self._delete(house, mine.pop(self._random.randrange(len(mine))), told)

    async def _delete(self, house: House, receipt: Receipt, told: Told) -> None:
        digest = receipt.digest
        size = told.kept.pop(digest)
        told.going.add(digest)
        grant = house.grant("delete", digests=(digest,), sequence=receipt.sequence)
        await house.client().call(house.target, routes.BLOB_DELETE, path={"digest": str(digest)}, grant=grant)
        if not self._dark:
            told.going.discard(digest)
            told.trashed[digest] = size

    async def _queue(self, told: Told) -> None:
        outbox = self._outbox
        assert outbox is not None
        with contextlib.suppress(HoldfastError):
            while True:
                self._number += 1
                body = f"{self._number}:".encode().ljust(self._random.choice(QUEUED_SIZES), b"x")
                sequence = await outbox.enqueue(http.put(f"http://192.0.2.1/{self._number}"), body)
                if self._dark:
                    return
                told.queued[sequence] = body

    # -- after the cut

    def _torn(self) -> int:
        """Files under a blob's name, acknowledged or not, that are not that blob."""
        assert self._house is not None
        below = self._house.store_path
        return sum(
            hashlib.sha256(path.read_bytes()).hexdigest() != path.name[-64:]
            for part in ("objects", "trash")
            for path in (below / part).rglob("*")
            if path.is_file()
        )

    async def _compare(self, told: Told) -> None:
        house = self._house
        assert house is not None
        for digest, size in told.kept.items():
            try:
                found = len(await house.get(digest))
            except HoldfastError:
                found = -1
            self.found.check(found == size, PUT_GONE, digest)
        trash = {entry.digest: entry.size for entry in house.running.store.trash()}  # type: ignore[attr-defined]
        for digest, size in told.trashed.items():
            self.found.check(await self._refused(house, digest), "a delete was undone", digest)
            self.found.check(trash.get(digest) == size, TRASH_GONE, digest)
        for digest in told.going:
            there = digest in trash or not await self._refused(house, digest)
            self.found.check(there, "a blob is neither here nor in trash", digest)
        await self._compare_queue(told)

    async def _refused(self, house: House, digest: Digest) -> bool:
        try:
            await house.get(digest)
        except NotFound:
            return True
        return False

    async def _compare_queue(self, told: Told) -> None:
        assert self._outbox is not None
        entries = {entry.sequence: entry async for entry in self._outbox.entries(states=[State.WAITING])}
        for sequence, body in told.queued.items():
            entry = entries.get(sequence)
            kept = b""
            if entry is not None and entry.open is not None:
                with contextlib.suppress(HoldfastError):
                    kept = bytes(await collect(entry.open(), len(body)))
            if kept != body:
                self.found.lost_queued += 1
                state = "not there" if entry is None else BODY_GONE
                self.found.kinds[state] += 1
                self.found.details.append(f"cut {self.found.cuts}: queued write {sequence}: {state}")
