"""A small real disk is filled by many clients, emptied and filled again: nothing breaks, and what was kept is right."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from pathlib import Path

import pytest
from tests.crash.loop_disk import MIB, LoopDisk, need
from tests.node.house import VAULT, Coordinator, House, pack

from holdfast.auth.grants import Receipt
from holdfast.blob import Digest
from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError, NoSpace, NotFound
from holdfast.pool import ThreadPool
from holdfast.stores.ballast import BALLAST_BYTES
from holdfast.wire import routes
from holdfast.wire.network import TcpNetwork

CLIENTS = 16
ROUNDS = max(1, int(os.environ.get("HOLDFAST_CRASH_ROUNDS", "100")) // 20)
RESERVE_BYTES = 4 * MIB
"""What puts leave free, so that the node can still write down a delete."""
SIZES = (4096, 60_000, 300_000, 1_000_000)

pytestmark = [pytest.mark.rig, pytest.mark.timeout(120 + 60 * ROUNDS)]


class Hours(SystemClock):
    """Each round is an hour of its own: a node moves 1 GiB an hour to trash at most."""

    passed = 0

    def monotonic(self) -> float:
        return super().monotonic() + 3600.0 * self.passed


class Filled:
    """A node on a disk of 64 MiB, and what it has given receipts for."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.kept: dict[Digest, Receipt] = {}
        self.refused = 0
        self._random = random.Random(7)
        self._number = 0

    async def fill(self) -> None:
        """Every client puts until it is refused three times on end."""
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        refusals = 0
        while refusals < 3:
            self._number += 1
            data = pack(VAULT.id, self._random.choice(SIZES), self._number)
            try:
                receipt = await self.house.put(data)
            except NoSpace:
                refusals += 1
                self.refused += 1
                continue
            refusals = 0
            self.kept[receipt.digest] = receipt

    async def check(self) -> None:
        """Everything that was acknowledged comes back right, and nothing else lies under a blob's name."""
        for digest, receipt in self.kept.items():
            assert len(await self.house.get(digest)) == receipt.size
        assert await asyncio.to_thread(self._torn) == []
        assert self.house.running.health() == "ok"

    def _torn(self) -> list[str]:
        found = (path for path in (self.house.store_path / "objects").rglob("*") if path.is_file())
        return [path.name for path in found if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]

    async def delete_half(self) -> None:
        for digest in self._random.sample(sorted(self.kept), len(self.kept) // 2):
            receipt = self.kept[digest]
            grant = self.house.grant("delete", digests=(digest,), sequence=receipt.sequence)
            del self.kept[digest]  # a delete that fails may have been done: its row says so before the blob goes
            await self.house.client().call(
                self.house.target, routes.BLOB_DELETE, path={"digest": str(digest)}, grant=grant
            )
            with pytest.raises(NotFound):
                await self.house.get(digest)


@pytest.mark.parametrize("foreign", [False, True], ids=["filled by puts", "filled by others"])
async def test_a_full_disk_is_read_and_emptied_and_filled_again(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, foreign: bool
) -> None:
    need("ext4", tmp_path_factory)
    disk = LoopDisk(tmp_path, size=64 * MIB)
    await asyncio.to_thread(disk.make)
    await asyncio.to_thread(disk.mount)
    network, clock = TcpNetwork(), Hours()
    coordinator = Coordinator(network)
    await coordinator.start()
    house = House(disk.path / "node", coordinator, network, ThreadPool(4), reserve=RESERVE_BYTES, ballast=BALLAST_BYTES)
    house.clock = clock
    try:
        await house.make()
        await house.start()
        filled = Filled(house)
        for clock.passed in range(ROUNDS):
            await filled.fill()
            if foreign:
                await asyncio.to_thread(_fill_up, disk.path / "foreign")
            assert filled.refused >= CLIENTS
            await filled.check()
            if foreign:  # reads and deletes go on, also after a start
                assert await asyncio.to_thread(_free, disk.path) == 0
                await filled.delete_half()
                await house.stop()
                await house.start()
                await filled.check()
                await filled.delete_half()
                await asyncio.to_thread(_fill_up, disk.path / "foreign")
                await filled.check()
                (disk.path / "foreign").unlink()
            await filled.delete_half()
            await house.running.store.purge_trash(float("inf"))  # type: ignore[attr-defined]
            for held in ("ballast", "ledger.ballast"):
                assert (house.path / held).exists(), "made again when there is room"
            filled.refused = 0
        await filled.fill()
        await house.stop()
        await house.start()
        await filled.check()
    finally:
        with contextlib.suppress(HoldfastError):
            await house.close()
        await asyncio.to_thread(disk.unmount)


def _free(path: Path) -> int:
    return os.statvfs(path).f_bavail


def _fill_up(path: Path) -> None:
    """Whatever is left is taken by somebody else."""
    with path.open("ab") as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    os.write(file.fileno(), bytes(size))
            except OSError:
                continue
