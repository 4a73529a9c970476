"""Which database is below a coordinator: SQLite and, marked ``rig``, one real PostgreSQL for all tests of a run.

Stories of healing and of loss take minutes on it and are ``slow`` too:
``pytest -m rig tests/heal tests/loss -k postgresql``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from tests.metadata.postgres_server import Below, PostgresServer, running
from tests.metadata.quick_schema import quick_migrate

from holdfast.metadata import database


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end, so no collection of garbage need look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quick_schema() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "migrate", quick_migrate())
        yield


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


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.rig, pytest.mark.slow])])
def below(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``story`` of tests/heal and tests/loss puts below its grids."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setattr(Below, "fresh", server.fresh)
