"""What holdfast takes besides time: memory of its processes, bytes in the coordinator's database, start-up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Connection

from bench.local import Holdfast
from bench.measure import MIB, Rounds, Scale, random_file, seconds
from bench.peak_memory import peak_bytes
from bench.raw_pipeline import environment
from bench.report import Figure, at_most
from holdfast.metadata.database import Database
from holdfast.metadata.queries_members import add_node, add_vault
from holdfast.metadata.queries_packs import add_keep_lists, add_keep_packs, add_packs, place
from holdfast.metadata.tables import PackState
from holdfast.pool import ThreadPool

_PACK_BYTES = 16 * MIB
_PER_TRANSACTION = 1000
_STARTS = 5  # starts of the command line in each round


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All figures of this page."""
    return [*_memory(scale, directory), _start(scale), _database(scale, directory)]


def _memory(scale: Scale, directory: Path) -> list[Figure]:
    source = random_file(directory / "memory-source", scale.memory_size)
    target = directory / "memory-got"
    report = directory / "peak"
    peaks: dict[str, float] = {}
    with Holdfast(directory / "memory", nodes=scale.nodes, survive=scale.copies - 1) as ours:
        for verb, arguments in (("put", [str(source), "--as", "large"]), ("get", ["large", "-o", str(target)])):
            command = [sys.executable, "-m", "bench.peak_memory", str(report), verb, *arguments, "-q"]
            subprocess.run(command, env={**environment(), "HOLDFAST_HOME": str(ours.home)}, check=True)
            peaks[f"client's {verb}"] = int(report.read_text())
        nodes = [peak_bytes(member.pid) for member in ours.members if member.role == "node" and member.pid]
        peaks["largest node"] = max(nodes)
        peaks["coordinator"] = max(peak_bytes(member.pid) for member in ours.members[:1] if member.pid)
    source.unlink()
    target.unlink()
    goals = {"client's put": at_most(150), "client's get": at_most(150), "largest node": at_most(128)}
    return [
        Figure(f"peak memory, {name}, {scale.memory_size // MIB} MiB", peak / MIB, "MiB", goal=goals.get(name))
        for name, peak in peaks.items()
    ]


def _start(scale: Scale) -> Figure:
    ours, bare = Rounds(), Rounds()
    for _ in range(scale.repeat * _STARTS):
        bare.add(1000 * seconds(lambda: _python("-c", "pass")))
        ours.add(1000 * seconds(lambda: _python("-m", "holdfast", "version")))
    return Figure(
        "holdfast version", ours.median, "ms", bare.median, "bare interpreter", at_most(120),
        tuple(ours.values), tuple(bare.values),
    )  # fmt: skip


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def _database(scale: Scale, directory: Path) -> Figure:
    """Packs as commits leave them: live, placed on as many nodes as there are copies, kept by the files' keep lists."""
    path = directory / "database" / "coordinator.db"
    path.parent.mkdir()
    asyncio.run(fill(scale, path))
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    empty = directory / "database-empty" / "coordinator.db"
    empty.parent.mkdir()
    asyncio.run(fill(Scale(packs=0, nodes=scale.nodes), empty))
    size -= sum(file.stat().st_size for file in empty.parent.iterdir())
    name = f"coordinator's database per pack, {scale.packs:,} packs, {scale.copies} placements"
    return Figure(name, size / scale.packs, "bytes", goal=at_most(300))


async def fill(scale: Scale, path: Path) -> None:
    """A coordinator's database with ``scale.packs`` packs, evenly on ``scale.nodes`` nodes."""
    pool = ThreadPool(1)
    try:
        database = await Database.open(path, pool)
        vault = await database.run(add_vault, os.urandom(32), None)
        nodes = [await database.run(add_node, _node(number)) for number in range(scale.nodes)]
        for start in range(0, scale.packs, _PER_TRANSACTION):
            count = min(_PER_TRANSACTION, scale.packs - start)
            await database.run(_commit, vault, nodes, start, count, scale.copies)
        await database.close()
    finally:
        pool.close()


def _commit(connection: Connection, vault: int, nodes: list[int], start: int, count: int, copies: int) -> None:
    rows = [
        {
            "digest": os.urandom(32), "vault": vault, "size": _PACK_BYTES, "state": PackState.LIVE.value,
            "target": copies, "lease_until": None,
        }
        for _ in range(count)
    ]  # fmt: skip
    numbers = list(add_packs(connection, rows).values())
    place(
        connection,
        [
            {"pack": pack, "node": nodes[(start + index + step) % len(nodes)], "sequence": start + index}
            for index, pack in enumerate(numbers)
            for step in range(copies)
        ],
    )
    keep = add_keep_lists(connection, [{"vault": vault, "digest": os.urandom(32)}])
    add_keep_packs(connection, [{"keep": number, "pack": pack} for number in keep.values() for pack in numbers])


def _node(number: int) -> dict[str, object]:
    return {
        "id": os.urandom(32), "name": f"node-{number}", "url": f"http://127.0.0.1:{7420 + number}", "reached_url": "",
        "store": os.urandom(16), "domain": "", "capacity": 1 << 40, "free": 1 << 40, "always_on": True,
        "read_only": False, "state": "up", "word": "", "sequence": 0, "blobs": 0, "root": bytes(16), "seen": 0.0,
    }  # fmt: skip
