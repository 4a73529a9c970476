"""What a node with very many blobs does: a real one (``tests/node/house.py``), whose other blobs are rows alone.

A start does not look for their files, because the ledger says that store and rows agree.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import apsw
from tests.node.house import COORDINATOR, VAULT, Coordinator, House, pack

from bench.growth_work import Statements, Work, Works
from holdfast.auth.grants import Receipt
from holdfast.blob import Digest
from holdfast.node.settings import NodeSettings
from holdfast.pool import ThreadPool
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.network import TcpNetwork

FEW = 100
"""Blobs that lie in trash, and as many in the cache and of a coordinator, however many there are in all."""

BLOB_BYTES = 4096
_NEVER = 1e7


def nodes(directory: Path, sizes: Sequence[int], rounds: int = 20) -> list[Work]:
    """With ``sizes`` blobs; small work ``rounds`` times."""
    works = Works()
    statements = Statements("ledger.db")
    for size in sizes:
        began = time.perf_counter()
        asyncio.run(_Node(directory / f"node-{size}", size, statements, works, rounds).measure())
        print(f"growth: a node, {size:,} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    statements.close()
    return list(works.values())


class _Node:
    def __init__(self, path: Path, blobs: int, statements: Statements, works: Works, rounds: int) -> None:
        network = TcpNetwork()
        settings = NodeSettings(reconcile_pause_s=_NEVER, clock_save_s=_NEVER, trash_s=_NEVER)
        self.house = House(path, Coordinator(network), network, ThreadPool(2), settings=settings)
        self.blobs = blobs
        self.statements = statements
        self.works = works
        self.rounds = rounds
        self._next = 0
        self._receipts: list[Receipt] = []

    async def measure(self) -> None:
        house = self.house
        await house.coordinator.start()
        await house.make()
        await house.start()
        await house.stop()
        fill(house.path / "ledger.db", self.blobs)
        with self._take("node: start and the blobs counted, after a crash", grows=True):
            await self._start()
            await house.running.ledger.counted()
        await house.stop()
        with self._take("node: start, after a clean stop"):
            await self._start()
            assert house.running.ledger.roots.count == self.blobs + FEW
        await self._requests()
        await self._coordinators()
        await self._upkeep()
        with self._take("node: clean stop"):
            await house.stop()
        await house.close()

    async def _start(self) -> None:
        """After a scrub's last page, so that nobody misses the files soon."""
        (self.house.path / "scrub.json").write_text(json.dumps({"after": "f" * 64}))
        await self.house.start()

    def _take(self, name: str, *, grows: bool = False) -> AbstractContextManager[None]:
        return self.statements.measure(self.works.named(name, grows=grows))

    async def _often(self, name: str, what: Callable[[], Awaitable[object]], *, grows: bool = False) -> None:
        await what()
        with self.statements.measure(self.works.named(name, grows=grows), self.rounds):
            for _ in range(self.rounds):
                await what()

    # --- what devices ask ---

    async def _requests(self) -> None:
        house, certificate, grant = self.house, self.house.certificate(), self.house.grant()

        async def put() -> None:
            self._next += 1
            self._receipts.append(await house.put(pack(VAULT.id, BLOB_BYTES, self._next), grant))

        async def get() -> None:
            self._next += 1
            await house.get(self._receipts[self._next % len(self._receipts)].digest, certificate)

        async def has() -> None:
            self._next += FEW
            asked = [digest_of(number % self.blobs) for number in range(self._next, self._next + FEW)]
            answer = await house.client().call(house.target, routes.HAS, m.HasRequest(digests=asked), grant=certificate)
            assert all(m.bits_of(answer.bitmap, FEW))

        async def delete() -> None:
            gone = self._receipts.pop()
            allowed = house.grant("delete", digests=(gone.digest,), sequence=gone.sequence)
            await house.client().call(
                house.target, routes.BLOB_DELETE, path={"digest": str(gone.digest)}, grant=allowed
            )

        await self._often("node: put of 4 KiB", put)
        await self._often("node: get of 4 KiB", get)
        await self._often("node: has, 100 blobs", has)
        await self._often("node: a blob goes to trash", delete)

    # --- what the coordinator asks ---

    async def _coordinators(self) -> None:
        house = self.house
        http = house.client(COORDINATOR)

        async def page(**query: object) -> m.InventoryPage:
            return await http.call(house.target, routes.INVENTORY, m.InventoryQuery(**query))  # type: ignore[arg-type]

        async def changes() -> None:
            assert len((await page(after=self.blobs // 2, limit=100)).entries) == 100

        async def under() -> None:
            middle = Digest(b"\x80" + bytes(31))
            assert (await page(prefix="7f.80", past=middle, limit=10)).entries

        async def heartbeat() -> None:
            assert house.running.heartbeat().count

        await self._often("node: a page of 100 in the middle of the inventory", changes)
        await self._often("node: a page of 10 under a prefix", under)
        await self._often("node: sums under one first byte", lambda: page(inner="80"), grows=True)
        await self._often("node: what a heartbeat says", heartbeat)

    # --- what it does by itself ---

    async def _upkeep(self) -> None:
        ledger = self.house.running.ledger

        async def trashed() -> None:
            assert len(await ledger.trashed(FEW, FEW)) == FEW

        async def cached() -> None:
            assert len(await ledger.kept_for("cache", 0, FEW)) == FEW

        async def reflogs() -> None:
            assert len(await ledger.reflogs(0, FEW)) == FEW

        await self._often("node: 100 blobs that have been in trash long enough", trashed)
        await self._often("node: the 100 oldest of the cache", cached)
        await self._often("node: 100 parts of a reflog", reflogs)


def fill(path: Path, count: int) -> None:
    """Rows of ``count`` packs and a few others into a ledger that is closed; the rows have not been counted."""
    rows: list[tuple[Digest, str, bytes | None, int, int | None]]
    rows = [(digest_of(number), "vault", bytes(VAULT.id), 1, None) for number in range(count + FEW)]
    rows += [(digest_of(count + FEW + number), "vault", bytes(VAULT.id), 0, 1) for number in range(FEW)]
    for kept in ("cache", "reflog"):
        rows += [(Digest.of(b"%s %d" % (kept.encode(), number)), kept, None, 1, None) for number in range(FEW)]
    with apsw.Connection(str(path)) as ledger:
        ledger.executemany(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                (digest, sequence, BLOB_BYTES, kept, vault, here, trashed)
                for sequence, (digest, kept, vault, here, trashed) in enumerate(rows, 1)
            ),
        )
        ledger.execute("INSERT OR REPLACE INTO facts VALUES ('clean', 1); DELETE FROM totals")
    ledger.close()


def digest_of(number: int) -> Digest:
    return Digest.of(b"blob %d" % number)
