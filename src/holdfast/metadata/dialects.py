"""The one file that knows which database is below: its connections, its pragmas, its insert-or-update."""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

IN_LIST_MAX = 1000
"""Values in one IN list: far below every database's limit, and few statement shapes to cache."""


def sqlite_engine(path: Path) -> Engine:
    """One connection for ever, used by one thread: no two connections may check-point the WAL at once.

    Transactions begin as writers, so that none fails half-way for a lock.
    """
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -65536"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def is_full(error: DBAPIError) -> bool:
    """Did the database refuse for want of space? What was there is intact."""
    return _sqlite_code(error) == sqlite3.SQLITE_FULL


def is_disk_failure(error: DBAPIError) -> bool:
    """Did a read, write or sync of the disk fail? After a failed sync nobody knows what is on it."""
    return _sqlite_code(error) == sqlite3.SQLITE_IOERR


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the rest says more about the same


def insert_or_update(connection: Connection, table: Table, keys: tuple[str, ...], update: tuple[str, ...]) -> Insert:
    """An insert that, where a row with the same ``keys`` is there, sets the columns ``update`` instead."""
    return _insert_or_update(connection.dialect.name, table, keys, update)


@functools.lru_cache(maxsize=64)
def _insert_or_update(dialect: str, table: Table, keys: tuple[str, ...], update: tuple[str, ...]) -> Insert:
    statement = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    fresh = statement.excluded
    return statement.on_conflict_do_update(index_elements=list(keys), set_={name: fresh[name] for name in update})
