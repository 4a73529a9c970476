"""A network for each test, on SQLite and, marked ``rig``, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.coordinator.hall import Hall
from tests.metadata.postgres_server import PostgresServer, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.rig)])
def database_url(request: pytest.FixtureRequest) -> str:
    """As the setting ``database``: empty for SQLite."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
async def bare_hall(tmp_path: Path, database_url: str) -> AsyncIterator[Hall]:
    """Nothing in it yet: ``make`` it."""
    hall = Hall(tmp_path / "coordinator", database_url=database_url)
    yield hall
    await hall.close()


@pytest.fixture
async def hall(bare_hall: Hall) -> Hall:
    """Six nodes that are up, survive 4, one operator with a vault."""
    await bare_hall.make()
    return bare_hall
