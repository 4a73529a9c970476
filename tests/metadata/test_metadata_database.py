from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from holdfast.errors import BadConfig, NoSpace, StorePoisoned
from holdfast.metadata import queries_members, queries_packs
from holdfast.metadata.database import NEWEST, Database
from holdfast.metadata.tables import PackState, metadata
from holdfast.pool import ThreadPool

FACTS = {
    "coordinator": b"c" * 32, "name": "c", "urls": "http://a:1", "epoch": 1, "commit_number": 0, "heard_epoch": 0,
    "heard_commit": 0, "slow_elapsed": 0.0, "slow_wall": 0.0, "survive": 4, "policy_version": 1, "revocations": 0,
}  # fmt: skip


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    made = ThreadPool(1)
    yield made
    made.close()


async def test_the_migrations_make_exactly_the_tables_that_queries_use(tmp_path: Path, pool: ThreadPool) -> None:
    database = await Database.open(tmp_path / "coordinator.db", pool)

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await database.run(differences) == []
    await database.close()


def test_the_newest_version_is_the_last_of_the_migrations() -> None:
    """A database of that version is not looked at any further."""
    config = Config()
    config.set_main_option("script_location", "holdfast.metadata:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


async def test_nobody_else_reads_the_database(tmp_path: Path, pool: ThreadPool) -> None:
    path = tmp_path / "coordinator.db"
    database = await Database.open(path, pool)
    await database.run(queries_members.create_network, FACTS)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "coordinator.db": 0o600, "coordinator.db-wal": 0o600, "coordinator.db-shm": 0o600,
    }  # fmt: skip
    await database.close()


async def test_a_database_survives_being_opened_again(tmp_path: Path, pool: ThreadPool) -> None:
    path = tmp_path / "coordinator.db"
    database = await Database.open(path, pool)
    await database.run(queries_members.create_network, FACTS)
    await database.close()
    database = await Database.open(path, pool)
    facts = await database.run(queries_members.network_facts)
    assert facts is not None
    assert facts.survive == 4
    await database.close()


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, pool: ThreadPool) -> None:
    path = tmp_path / "coordinator.db"
    database = await Database.open(path, pool)
    await database.run(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    await database.close()
    with pytest.raises(BadConfig, match="newer holdfast"):
        await Database.open(path, pool)


async def test_what_is_no_database_is_refused(tmp_path: Path, pool: ThreadPool) -> None:
    path = tmp_path / "coordinator.db"
    path.write_bytes(b"this is a text file, and a long one" * 100)
    with pytest.raises(BadConfig, match="cannot be used"):
        await Database.open(path, pool)


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path, pool: ThreadPool) -> None:
    database = await Database.open(tmp_path / "coordinator.db", pool)

    def half(connection: Connection) -> None:
        queries_members.create_network(connection, FACTS)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        await database.run(half)
    assert await database.run(queries_members.network_facts) is None
    await database.close()


async def test_writes_are_synced_and_in_a_write_ahead_log(tmp_path: Path, pool: ThreadPool) -> None:
    database = await Database.open(tmp_path / "coordinator.db", pool)

    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert await database.run(pragmas) == ["wal", 2, 1]
    await database.close()


async def test_a_full_disk_is_told_and_passes(tmp_path: Path, pool: ThreadPool) -> None:
    database = await Database.open(tmp_path / "coordinator.db", pool)

    def limit(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await database.run(limit)
    with pytest.raises(NoSpace, match="full"):
        await database.run(queries_members.create_network, {**FACTS, "urls": "u" * 1_000_000})
    assert await database.run(queries_members.network_facts) is None
    await database.run(queries_members.create_network, FACTS)
    await database.close()


async def test_a_disk_that_failed_is_not_asked_again(tmp_path: Path, pool: ThreadPool) -> None:
    database = await Database.open(tmp_path / "coordinator.db", pool)

    def failing(connection: Connection) -> None:
        cause = sqlite3.OperationalError("disk I/O error")
        cause.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise OperationalError("COMMIT", None, cause)

    for attempt in (failing, queries_members.network_facts):
        with pytest.raises(StorePoisoned, match="look at it"):
            await database.run(attempt)
    await database.close()


async def test_a_pack_with_five_placements_takes_at_most_300_bytes(tmp_path: Path, pool: ThreadPool) -> None:
    count, nodes = 20_000, 7
    path = tmp_path / "coordinator.db"
    database = await Database.open(path, pool)

    def fill(connection: Connection) -> None:
        vault = queries_members.add_vault(connection, b"v" * 32, None)
        node = {
            "name": "n", "url": "", "reached_url": "", "store": b"s" * 16, "domain": "d", "capacity": 1, "free": 1,
            "always_on": False, "read_only": False, "state": "up", "word": "", "sequence": 0, "blobs": 0,
            "root": b"r" * 16, "seen": 0.0,
        }  # fmt: skip
        numbers = [queries_members.add_node(connection, {**node, "id": bytes([n]) * 32}) for n in range(nodes)]
        for start in range(0, count, 500):
            digests = [hashlib.sha256(b"%d" % number).digest() for number in range(start, start + 500)]
            made = queries_packs.add_packs(
                connection,
                [
                    {"digest": digest, "vault": vault, "size": 16 << 20, "state": PackState.LIVE, "target": 5,
                     "lease_until": None}
                    for digest in digests
                ],
            )  # fmt: skip
            queries_packs.place(
                connection,
                [
                    {"pack": made[digest], "node": numbers[(index + copy) % nodes], "sequence": 100_000 + start + index}
                    for index, digest in enumerate(digests)
                    for copy in range(5)
                ],
            )

    await database.run(fill)
    await database.close()
    per_pack = path.stat().st_size / count
    assert per_pack <= 300, f"{per_pack:.0f} bytes per pack"
