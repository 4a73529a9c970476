"""What a device does with an index of very many files: a real vault on a real network of two nodes.

The rows of its other files are like the one that a put has left, each file one chunk, a hundred of them in a pack and
in a directory.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.client.fleet import Fleet

from bench.growth_work import Statements, Work, Works
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.client.device.home import Home
from holdfast.client.device.local import FileStat
from holdfast.client.names.drafts import KnownRecipe
from holdfast.client.names.index_file import Batch, ChunkPlace, IndexFile, NodeRow
from holdfast.client.vault import Vault
from holdfast.files import OsFiles

ENTRIES = 100
FILE_BYTES = 4096
_PER_BATCH = 10_000


def clients(directory: Path, sizes: Sequence[int], rounds: int = 20) -> list[Work]:
    """With ``sizes`` files in the index; small work ``rounds`` times."""
    works = Works()
    asyncio.run(_clients(directory / "network", sizes, works, rounds))
    return list(works.values())


async def _clients(directory: Path, sizes: Sequence[int], works: Works, rounds: int) -> None:
    fleet = Fleet(directory)
    statements = Statements("index.db")
    await fleet.make(nodes=2, survive=1)
    try:
        for size in sizes:
            began = time.perf_counter()
            await _Client(fleet, await fleet.home(), size, statements, works, rounds).measure()
            print(f"growth: a client, {size:,} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        await fleet.close()
        statements.close()


class _Client:
    def __init__(self, fleet: Fleet, home: Home, size: int, statements: Statements, works: Works, rounds: int) -> None:
        self.fleet = fleet
        self.home = home
        self.size = size
        self.statements = statements
        self.works = works
        self.rounds = rounds
        self.here = home.path / "files"
        self._next = 0

    def new(self, name: str) -> Path:
        """A file of this machine that is nowhere else."""
        self._next += 1
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._next.to_bytes(8) * (FILE_BYTES // 8))
        return path

    async def measure(self) -> None:
        first = self.fleet.open(self.home)
        await first.put(self.new("first"), "first")
        await first.close()
        each = fill(self.home.index_path, self.size)
        print(f"growth: a client, {self.size:,} files, {each:.0f} bytes each in the index", file=sys.stderr, flush=True)
        vault = self.fleet.open(self.home)
        for number in range(ENTRIES):
            self.new(f"tree/{number}")
        await asyncio.sleep(0.05)  # until a file's stamp can tell a change
        await vault.put_tree([self.here / "tree"], "tree")
        await self._files(vault)
        await self._trees(vault)
        await self._forget(vault)
        await vault.close()

    async def _files(self, vault: Vault) -> None:
        async def put() -> None:
            await vault.put(self.new("new"), f"new {self._next}")

        async def same() -> None:
            await vault.put(self.here / "tree" / "7", "tree/7")

        async def get() -> None:
            self._next += 1
            await vault.get(f"tree/{self._next % ENTRIES}", self.here / f"got {self._next}")

        async def started() -> None:
            other = self.fleet.open(self.home)
            await other.get("tree/7", self.here / f"got {time.monotonic_ns()}")
            await other.close()

        await self._often("client: start, get of a file, end", started)
        await self._often("client: put of a new file", put)
        await self._often("client: put of a file that is known", same)
        await self._often("client: get of a file", get)

    async def _trees(self, vault: Vault) -> None:
        async def ls() -> None:
            assert len([entry async for entry in vault.list("tree")]) == ENTRIES

        async def again() -> None:
            summary = await vault.put_tree([self.here / "tree"], "tree")
            assert summary.unchanged >= ENTRIES, summary

        await self._often("client: ls of a directory of 100 names", ls)
        await self._often("client: put of a directory of 100 files, unchanged", again)

    async def _forget(self, vault: Vault) -> None:
        async def forget() -> None:
            self._next += 1
            await vault._index.forget_packs([_pack(self._next % (self.size // ENTRIES))])

        await self._often("client: a pack of 100 chunks is gone", forget)

    async def _often(self, name: str, what: Callable[[], Awaitable[object]]) -> None:
        await what()
        with self.statements.measure(self.works.named(name), self.rounds):
            for _ in range(self.rounds):
                await what()


def fill(path: Path, count: int) -> float:
    """``count`` files into an index that has one; bytes an entry."""
    index = IndexFile(path, OsFiles())
    index._db.execute("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000")  # the filling is not what is measured
    before = path.stat().st_size
    ((parent,),) = index._db.execute("SELECT parent FROM refs").fetchall()
    assert isinstance(parent, bytes)
    (like,) = index.refs_of(parent).values()
    holders = [NodeRow(Id(bytes([number]) * 32), f"node-{number}", "") for number in (1, 2)]
    for start in range(0, count, _PER_BATCH):
        batch = Batch()
        batch.nodes.update({holder.id: holder for holder in holders})
        for number in range(start, min(start + _PER_BATCH, count)):
            pack, parent = _pack(number // ENTRIES), _parent(number // ENTRIES)
            batch.packs[pack] = (ENTRIES * FILE_BYTES, [holder.id for holder in holders])
            batch.chunks.append((_id(number), ChunkPlace(pack, number % ENTRIES * FILE_BYTES, FILE_BYTES, bytes(16))))
            place = KnownRecipe(FILE_BYTES, pack, 0, 100, bytes(32), 0, (pack,))
            batch.contents.append((_id(-number), pack, place.encode()))
            batch.refs[_id(number)] = (parent, like._replace(at=1.0))
            batch.stats.append((parent, b"%d" % number, FileStat(FILE_BYTES, 1, 1, number, _id(-number))))
        index.write(batch)
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.close()
    return (path.stat().st_size - before) / count


def _id(number: int) -> bytes:
    return Digest.of(b"%d" % number)


def _pack(number: int) -> Digest:
    return Digest.of(b"pack %d" % number)


def _parent(number: int) -> bytes:
    return Digest.of(b"parent %d" % number)
