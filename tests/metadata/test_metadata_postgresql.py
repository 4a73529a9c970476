"""The coordinator's database on a real PostgreSQL that is stopped, killed and taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from tests.metadata.postgres_server import PostgresServer, cut_commit
from tests.metadata.test_metadata_database import FACTS

from holdfast.errors import BadConfig, Conflict, NoSpace, StorePoisoned, Unavailable
from holdfast.metadata import database as database_module
from holdfast.metadata import postgresql, queries_members, together
from holdfast.metadata.database import Database
from holdfast.metadata.postgresql import Session
from holdfast.metadata.prepared import Prepared
from holdfast.metadata.tables import metadata
from holdfast.pool import ThreadPool

pytestmark = pytest.mark.rig


@pytest.fixture
def server(postgres: PostgresServer) -> PostgresServer:
    return postgres


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    made = ThreadPool(1)
    yield made
    made.close()


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.fresh()


@pytest.fixture
async def database(url: str, pool: ThreadPool) -> AsyncIterator[Database]:
    made = await Database.connect(url, pool)
    await made.run(queries_members.create_network, FACTS)
    yield made
    await made.close()


def add(connection: Connection, name: int) -> int:
    """A vault, and one commit."""
    connection.execute(text("UPDATE meta SET commit_number = commit_number + 1"))
    return queries_members.add_vault(connection, b"%032d" % name, None)


def vaults(connection: Connection) -> list[int]:
    return sorted(int(row.id) for row in queries_members.all_vaults(connection))


def session_of(database: Database) -> Session:
    session = database._below
    assert isinstance(session, Session)
    return session


async def test_the_migrations_make_exactly_the_tables_there_too(url: str, pool: ThreadPool) -> None:
    database = await Database.connect(url, pool)

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await database.run(differences) == []
    await database.close()
    database = await Database.connect(url, pool)  # and once more, over what is there
    assert await database.run(differences) == []
    await database.close()


async def test_two_coordinators_never_work_on_one_database(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_LOCK_WAIT", text("SET LOCAL lock_timeout = '200ms'"))
    other = ThreadPool(1)
    with pytest.raises(BadConfig, match="another coordinator works on this database"):
        await Database.connect(url, other)
    await database.close()
    await (await Database.connect(url, other)).close()
    other.close()


async def test_whoever_finds_another_at_work_after_a_break_stops_for_good(
    server: PostgresServer, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_LOCK_WAIT", text("SET LOCAL lock_timeout = '200ms'"))
    server.restart()
    other = ThreadPool(1)
    second = await Database.connect(url, other)
    for _ in range(2):
        with pytest.raises(StorePoisoned, match="another coordinator"):
            await database.run(vaults)
    await second.close()
    other.close()
    with pytest.raises(StorePoisoned, match="another coordinator"):  # also now that it has gone
        await database.run(vaults)


async def test_another_that_came_and_went_during_a_break_is_noticed(
    server: PostgresServer, url: str, database: Database
) -> None:
    server.restart()
    other = ThreadPool(1)
    await (await Database.connect(url, other)).close()
    other.close()
    with pytest.raises(StorePoisoned, match="another coordinator has worked"):
        await database.run(vaults)


async def test_a_transaction_over_the_change_of_another_is_refused(
    server: PostgresServer, url: str, database: Database
) -> None:
    """One that lost its lock without hearing of it: it wrote nothing before the other, and writes nothing after."""
    name = url.split("/")[3].split("?")[0]

    def overtaken(connection: Connection) -> None:
        server.sql("UPDATE meta SET stamp = 'of another'", name)
        add(connection, 1)

    with pytest.raises(StorePoisoned, match="another coordinator has worked"):
        await database.run(overtaken)
    with pytest.raises(StorePoisoned, match="another coordinator has worked"):
        await database.run(vaults)
    assert server.sql("SELECT count(*) FROM vaults", name) == [(0,)]
    assert server.sql("SELECT stamp, commit_number FROM meta", name) == [("of another", 0)]


async def test_a_server_that_restarts_between_transactions_is_not_noticed(
    server: PostgresServer, database: Database
) -> None:
    for name in range(3):
        await database.run(add, name)
        server.restart()
    assert await database.run(vaults) == [0, 1, 2]


async def test_a_server_that_restarts_within_a_transaction_undoes_it_and_it_runs_again(
    server: PostgresServer, database: Database
) -> None:
    runs = 0

    def interrupted(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        made = add(connection, 7)
        if runs == 1:
            server.restart()
        return made

    await database.run(interrupted)
    assert runs == 2
    assert await database.run(vaults) == [7]


@pytest.mark.parametrize("before", [True, False], ids=["undone", "committed"])
async def test_a_commit_whose_answer_was_lost_is_told_as_it_was(
    server: PostgresServer, database: Database, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    cut_commit(server, monkeypatch, before=before)
    assert await database.run(add, 1) == 1, "what was undone is done again"
    assert await database.run(vaults) == [1]
    await database.run(add, 2)
    facts = await database.run(queries_members.network_facts)
    assert facts is not None
    assert facts.commit_number == 2


async def test_a_commit_of_anything_whose_answer_was_lost_is_told_as_it_was(
    server: PostgresServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, before in enumerate((True, False), 1):
        cut_commit(server, monkeypatch, before=before)
        assert await database.run(queries_members.add_vault, b"%032d" % number, None) == number
    assert await database.run(vaults) == [1, 2]


async def test_a_commit_that_is_found_made_after_its_answer_was_given_up_stops_the_coordinator(
    server: PostgresServer, url: str, database: Database, monkeypatch: pytest.MonkeyPatch, pool: ThreadPool
) -> None:
    monkeypatch.setattr(database_module, "SETTLE_TRIES", 0)
    cut_commit(server, monkeypatch, before=False)
    with pytest.raises(Unavailable, match="may have been made"):
        await database.run(add, 1)
    with pytest.raises(StorePoisoned, match="restart the coordinator"):
        await database.run(vaults)
    again = await Database.connect(url, pool)
    assert await again.run(vaults) == [1]
    await again.close()


async def test_a_server_that_is_away_is_unavailable_until_it_is_back(
    server: PostgresServer, database: Database
) -> None:
    await database.run(add, 1)
    server.stop()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="reached") as found:
                await database.run(add, 2)
            assert not isinstance(found.value, StorePoisoned)
            assert "/" not in found.value.detail, "where the server is concerns no member of the network"
    finally:
        server.start()
    await database.run(add, 2)
    assert await database.run(vaults) == [1, 2]


async def test_kills_at_any_moment_lose_and_double_nothing(server: PostgresServer, database: Database) -> None:
    """Writers go on while the server dies again and again; each tries until it is told that it was done."""
    done: list[int] = []

    async def write(names: range) -> None:
        for name in names:
            while True:
                try:
                    await database.run(add, name)
                except Conflict:
                    raise AssertionError(f"{name} was told as undone, but it was made") from None
                except StorePoisoned:
                    raise
                except Unavailable:
                    await asyncio.sleep(0.02)
                    continue
                done.append(name)
                break

    async def kill() -> None:
        for wait in (0.05, 0.31, 0.17, 0.23, 0.11, 0.29):
            await asyncio.sleep(wait)
            await asyncio.to_thread(server.restart)

    killer = asyncio.create_task(kill())
    count, start = 0, 0
    while not killer.done():
        await asyncio.gather(*(write(range(start + 10 * part, start + 10 * part + 10)) for part in range(4)))
        start += 40
        count += 40
    await killer
    assert sorted(done) == list(range(count))
    assert await database.run(vaults) == list(range(count))
    facts = await database.run(queries_members.network_facts)
    assert facts is not None
    assert facts.commit_number == count


async def test_an_old_copy_in_the_place_of_the_database_is_noticed(
    server: PostgresServer, url: str, database: Database
) -> None:
    name = url.split("/")[3].split("?")[0]
    session_of(database)._drop()  # a copy is made of what nobody uses
    server.sql(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    await database.run(add, 1)
    session_of(database)._drop()
    server.sql(f"ALTER DATABASE {name} RENAME TO {name}_lost")
    server.sql(f"ALTER DATABASE {name}_copy RENAME TO {name}")
    with pytest.raises(StorePoisoned, match="an old copy"):
        await database.run(vaults)


async def test_a_server_that_does_not_sync_is_refused(server: PostgresServer, url: str, pool: ThreadPool) -> None:
    for setting in ("fsync", "synchronous_commit"):
        server.restart(f"-c {setting}=off")
        try:
            with pytest.raises(BadConfig, match=rf"{setting} off.*set both to on"):
                await Database.connect(url, pool)
        finally:
            server.restart()


async def test_nobody_there_is_unavailable_and_no_right_is_bad_configuration(
    server: PostgresServer, url: str, pool: ThreadPool
) -> None:
    with pytest.raises(Unavailable, match="reached"):
        await Database.connect(server.url("nowhere"), pool)
    with pytest.raises(BadConfig, match="postgresql://USER@HOST/NAME"):
        await Database.connect("mysql://there/db", pool)
    server.sql("CREATE ROLE guest LOGIN")
    with pytest.raises(BadConfig, match="permission denied"):
        await Database.connect(url.replace("holdfast@", "guest@"), pool)


async def test_reading_needs_no_answer_to_its_commit(
    server: PostgresServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = together.finish

    def finish(connection: Connection, fence: Prepared, parameters: Mapping[str, Any]) -> bool:
        monkeypatch.setattr(postgresql, "finish", real)
        server.restart()
        return real(connection, fence, parameters)

    monkeypatch.setattr(postgresql, "finish", finish)
    assert await database.run(vaults) == []
    await database.run(add, 1)
    assert await database.run(vaults) == [1]


async def test_errors_of_postgresql_say_what_they_are(database: Database) -> None:
    def fail(state: str) -> Any:
        return lambda connection: connection.execute(
            text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$")
        )

    with pytest.raises(NoSpace):
        await database.run(fail("53100"))
    with pytest.raises(Unavailable):
        await database.run(fail("53300"))
    with pytest.raises(Unavailable):  # four times
        await database.run(fail("40001"))
    assert await database.run(vaults) == []
    with pytest.raises(StorePoisoned):
        await database.run(fail("58030"))


async def test_a_collision_is_tried_again(database: Database) -> None:
    runs = 0

    def once(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        made = add(connection, 1)
        if runs < 3:
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$"))
        return made

    await database.run(once)
    assert runs == 3
    assert await database.run(vaults) == [1]


async def test_closing_twice_is_fine(url: str, pool: ThreadPool) -> None:
    database = await Database.connect(url, pool)
    await database.close()
    with suppress(Unavailable):
        await database.close()
