"""A coordinator whose PostgreSQL dies under it: at each statement of a commit, and before and after its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine, func, select
from sqlalchemy.pool import StaticPool
from tests.coordinator.hall import Hall, Written, digest_of
from tests.coordinator.test_coordinator_life import Life
from tests.metadata.postgres_server import PostgresServer, cut_commit

from holdfast.errors import StorePoisoned, Unavailable
from holdfast.metadata import journey, queries_members, tables
from holdfast.metadata.dialects import postgresql_engine

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

pytestmark = pytest.mark.rig


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    return postgres.fresh()


async def commit(hall: Hall, name: str) -> Written:
    """Tried as clients do, with the very same bytes, until it is told that it was done."""
    written = hall.owner.write(name, [digest_of(name)])
    packs = [hall.pack(name)]
    for _ in range(200):
        try:
            assert await hall.owner.states([written], packs=packs) == [["committed"]]
        except StorePoisoned:
            raise
        except Unavailable:
            await asyncio.sleep(0.1)  # a server takes seconds to come back on a busy machine
            continue
        return written
    raise AssertionError("two hundred tries were not enough")


async def whole(hall: Hall, names: list[str]) -> None:
    """Each name is there once, in its first version, and memory says what the database says."""
    for name in names:
        assert (await hall.owner.ref(name)).record
    assert await hall.run(lambda c: c.execute(select(func.count()).select_from(tables.refs)).scalar_one()) == len(names)
    assert await hall.run(lambda c: c.execute(select(func.max(tables.refs.c.version))).scalar_one()) == 1
    assert await hall.run(lambda c: c.execute(select(func.count()).select_from(tables.ref_history)).scalar_one()) == 0
    facts = await hall.run(queries_members.network_facts)
    assert hall.coordinator.state.position.commit == facts.commit_number
    assert facts.commit_number >= len(names)  # one that is sent again, by who did not wait, is counted again


def dies_before(statement: int, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies before that statement, counted from now; those before it have come to it."""
    left, real = statement, journey._queue

    def queue(connection: PGconn, *args: Any) -> list[bool]:
        nonlocal left
        left -= 1
        if left == -1:
            monkeypatch.setattr(journey, "_queue", real)
            connection.flush()
            server.restart()
        return real(connection, *args)

    monkeypatch.setattr(journey, "_queue", queue)


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["sampled", "each"])
async def test_a_server_that_dies_at_each_statement_of_a_commit_loses_and_doubles_nothing(
    hall: Hall, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    names: list[str] = []
    hit, at = True, 0
    while hit:  # until a commit has fewer statements than that
        with monkeypatch.context() as patch:
            dies_before(at, postgres, patch)
            dying = journey._queue
            names.append(f"name-{len(names)}")
            await commit(hall, names[-1])
            hit = journey._queue is not dying
        at += step
    assert at > 10, "a commit has more statements than this"
    await whole(hall, names)
    await hall.restart()
    await whole(hall, names)


async def test_a_commit_whose_answer_was_lost_is_neither_lost_nor_doubled(
    hall: Hall, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    for before in (True, False, True, False):
        cut_commit(postgres, monkeypatch, before=before)
        names.append(f"name-{len(names)}")
        await commit(hall, names[-1])
        await whole(hall, names)
    await hall.restart()
    await whole(hall, names)


async def test_eight_clients_over_a_server_that_dies_again_and_again(hall: Hall, postgres: PostgresServer) -> None:
    """Each sends the very same commit until it is told that it was done: none is lost, none is done twice."""
    names: list[str] = []

    async def client(number: int) -> None:
        count = 0
        while not killer.done() or count < 3:
            name = f"name-{number}-{count}"
            await commit(hall, name)
            names.append(name)
            count += 1

    async def kill() -> None:
        for wait in (0.2, 0.5, 0.1, 0.4):
            await asyncio.sleep(wait)
            await asyncio.to_thread(postgres.restart)

    killer = asyncio.create_task(kill())
    await asyncio.gather(*(client(number) for number in range(8)))
    await killer
    assert len(names) >= 24
    await whole(hall, names)
    await hall.restart()
    await whole(hall, names)


def test_packs_and_refs_live_as_the_twin_says_there_too(postgres: PostgresServer) -> None:
    class LifeOnPostgresql(Life):
        def made_engine(self) -> Engine:
            engine = postgresql_engine(postgres.fresh())
            engine.pool = StaticPool(engine.pool._creator)
            return engine

    few = settings(max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(LifeOnPostgresql, settings=few)
