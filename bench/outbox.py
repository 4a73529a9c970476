"""The outbox: durable writes beside the synced commits that SQLite gives, delivery of small writes, one large body."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import apsw

from bench.measure import MIB, Rounds, Scale, alternate, seconds
from bench.outbox_many import Looked, fill
from bench.raw_pipeline import environment
from bench.report import Figure, at_least, at_most, ratio_at_least
from holdfast.outbox import Outbox, http

_BODY = b"x" * 200
_ROW_BYTES = 600  # what an entry with such a body takes sealed
_WRITERS = 16
_NOWHERE = "http://127.0.0.1:9"


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All figures of this page; as many small entries as ``scale`` has small files, at most 5,000 of them synced."""
    return [
        *_enqueue(scale, directory),
        _replay(scale, directory),
        _large(scale, directory),
        *_many(scale, directory),
    ]


def _enqueue(scale: Scale, directory: Path) -> list[Figure]:
    """Beside two limits: SQLite in a loop that does nothing else, and SQLite as a program on asyncio must call it, from
    a thread that it hands each commit to and hears of its end. The goals count from the second; the first is shown."""
    count = min(scale.files, 5000) // _WRITERS * _WRITERS
    loop, bare, one, many = Rounds(), Rounds(), Rounds(), Rounds()

    def looped(number: int) -> None:
        loop.add(count / seconds(lambda: _commit(directory / f"loop-{number}.db", count)))

    def commits(number: int) -> None:
        bare.add(count / asyncio.run(_commit_in_thread(directory / f"bare-{number}.db", count)))

    def single(number: int) -> None:
        one.add(count / asyncio.run(_put_in(directory / f"one-{number}", count, 1)))

    def side_by_side(number: int) -> None:
        many.add(count / asyncio.run(_put_in(directory / f"many-{number}", count, _WRITERS)))

    alternate(scale.repeat, looped, commits, single, side_by_side)
    limit, limits = bare.median, tuple(bare.values)
    name = "synced commits from a thread"
    return [
        Figure(
            "SQLite, synced commits from a thread of an asyncio program", bare.median, "/s", loop.median,
            "synced commits in a bare loop", rounds=tuple(bare.values), limit_rounds=tuple(loop.values),
        ),
        Figure(
            "outbox, durable entries, 1 writer", one.median, "/s", limit, name, ratio_at_least(0.7),
            tuple(one.values), limits,
        ),
        Figure(
            f"outbox, durable entries, {_WRITERS} writers", many.median, "/s", limit, name, ratio_at_least(2.0),
            tuple(many.values), limits,
        ),
    ]  # fmt: skip


class _Bare:
    """One row to a transaction, with the outbox's settings and nothing else."""

    def __init__(self, path: Path) -> None:
        self._db = apsw.Connection(str(path))
        self._db.pragma("journal_mode", "wal")
        self._db.pragma("synchronous", "full")
        self._db.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT")

    def commit(self) -> None:
        self._db.execute("INSERT INTO entries (sealed) VALUES (?)", (os.urandom(_ROW_BYTES),))

    def close(self) -> None:
        self._db.close()


def _commit(path: Path, count: int) -> None:
    db = _Bare(path)
    try:
        for _ in range(count):
            db.commit()
    finally:
        db.close()


async def _commit_in_thread(path: Path, count: int) -> float:
    """Seconds. The thread is the standard library's own, not the outbox's."""
    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()
        db = await loop.run_in_executor(thread, _Bare, path)
        started = time.perf_counter()
        for _ in range(count):
            await loop.run_in_executor(thread, db.commit)
        took = time.perf_counter() - started
        await loop.run_in_executor(thread, db.close)
        return took


async def _put_in(directory: Path, count: int, writers: int) -> float:
    async with await Outbox.open(directory) as outbox:

        async def write(first: int) -> None:
            for number in range(first, count, writers):
                await outbox.enqueue(http.put(f"{_NOWHERE}/{number}"), _BODY)

        started = time.perf_counter()
        await asyncio.gather(*(write(first) for first in range(writers)))
        return time.perf_counter() - started


def _replay(scale: Scale, directory: Path) -> Figure:
    rounds = Rounds()
    with _upstream() as url:
        for number in range(scale.repeat):
            rounds.add(asyncio.run(_deliver(directory / f"replay-{number}", f"{url}/{number}", scale.files)))
    name = "outbox, delivery of small entries, each shown"
    return Figure(name, rounds.median, "/s", goal=at_least(1000), rounds=tuple(rounds.values))


async def _deliver(directory: Path, url: str, count: int) -> float:
    async with await Outbox.open(directory) as outbox:
        for start in range(0, count, _WRITERS * 16):
            numbers = range(start, min(start + _WRITERS * 16, count))
            await asyncio.gather(*(outbox.enqueue(http.put(f"{url}/{number}"), _BODY) for number in numbers))
        started = time.perf_counter()
        summary = await outbox.flush()
        took = time.perf_counter() - started
        assert (summary.delivered, summary.waiting) == (count, 0), summary
        return count / took


def _large(scale: Scale, directory: Path) -> Figure:
    report = directory / "peak"
    with _upstream() as url:
        command = [sys.executable, "-m", "bench.outbox_body", str(report), str(directory / "large"), url]
        subprocess.run([*command, str(scale.memory_size)], env=environment(), check=True)
    name = f"outbox, growth of memory, a body of {scale.memory_size // MIB} MiB"
    return Figure(name, int(report.read_text()) / MIB, "MiB", goal=at_most(32))


def _many(scale: Scale, directory: Path) -> list[Figure]:
    below = directory / "many"
    asyncio.run(fill(below, _NOWHERE, scale.entries))
    command = [sys.executable, "-m", "bench.outbox_many", str(below)]
    out = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE).stdout
    looked = Looked(**json.loads(out))
    name = f"outbox of {scale.entries:,} entries"
    return [
        Figure(f"{name}, start", looked.start_s * 1000, "ms", goal=at_most(2000)),
        Figure(f"{name}, slowest page", looked.page_s * 1000, "ms"),
        Figure(f"{name}, peak memory", looked.memory_bytes / MIB, "MiB", goal=at_most(150)),
    ]


@contextmanager
def _upstream() -> Iterator[str]:
    """A server in a process of its own; its URL."""
    command = [sys.executable, "-m", "bench.outbox_upstream"]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.stdin.close()
