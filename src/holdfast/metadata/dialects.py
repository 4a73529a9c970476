"""The databases that may be below: their connections, their pragmas, what their errors mean."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from holdfast.errors import BadConfig
from holdfast.metadata.prepared import Prepared, execute
from holdfast.metadata.together import travel

IN_LIST_MAX = 1000
"""Values in one IN list: far below every database's limit, and few statement shapes to cache."""

_BEGIN = Prepared("BEGIN IMMEDIATE", None)


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
        execute(connection, _BEGIN, {})

    return engine


def postgresql_engine(url: str) -> Engine:
    """Connects to the PostgreSQL at ``url`` whenever it is asked to, and keeps nothing: ``Session`` keeps connections.

    A server that vanished is noticed within half a minute. BadConfig for another URL, or without the driver.
    """
    try:
        parts = make_url(url)
    except ArgumentError as error:
        raise BadConfig("database is no URL; write it like postgresql://USER@HOST/NAME") from error
    if parts.drivername not in ("postgresql", "postgres"):
        raise BadConfig(
            "database is a PostgreSQL's URL, like postgresql://USER@HOST/NAME; without it, SQLite in --data is used"
        )
    given = {name: value for name, value in _CONNECTING.items() if name not in parts.query}
    try:
        engine = create_engine(
            parts.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            # psycopg would deallocate all prepared statements with its own after a rollback: ``journey`` has them
            connect_args={**given, "prepare_threshold": None},
        )
    except ImportError as error:
        raise BadConfig("PostgreSQL needs its driver: pip install 'holdfast[postgresql]'") from error
    travel(engine)
    return engine


_FENCE = ("meta", "stamp")
_CONNECTING = {
    "application_name": "holdfast", "connect_timeout": "5", "keepalives_idle": "10", "keepalives_interval": "5",
    "keepalives_count": "3", "tcp_user_timeout": "20000",
}  # fmt: skip


def words(error: DBAPIError) -> str:
    """What the database said, in one line."""
    return " ".join(str(error.orig).split())


def is_full(error: DBAPIError) -> bool:
    """Did the database refuse for want of space? What was there is intact."""
    return _sqlite_code(error) == sqlite3.SQLITE_FULL or _sqlstate(error) == "53100"


def is_disk_failure(error: DBAPIError) -> bool:
    """Did a read, write or sync of the disk fail, or was what it read damaged? Nobody knows then what is on it."""
    return _sqlite_code(error) == sqlite3.SQLITE_IOERR or _sqlstate(error) in ("58030", "XX001", "XX002")


def is_lost(error: DBAPIError) -> bool:
    """Is the connection gone, so that the answer to what was sent last will never come?"""
    state = _sqlstate(error)
    return error.connection_invalidated or state[:2] == "08" or state in ("57P01", "57P02", "57P03", "57P05", "25P03")


def is_answer(error: DBAPIError) -> bool:
    """Did the server itself say so, as its last word about what was sent?"""
    return bool(_sqlstate(error)) and not is_lost(error)


def is_busy(error: DBAPIError) -> bool:
    """Is the server short of memory or connections? Later it may not be."""
    return _sqlstate(error)[:2] == "53"


def is_collision(error: DBAPIError) -> bool:
    """Was the transaction undone because of another one? It may be run again at once."""
    return _sqlstate(error) in ("40001", "40P01")


def is_lock_timeout(error: DBAPIError) -> bool:
    """Has somebody else a lock that was waited for?"""
    return _sqlstate(error) == "55P03"


def is_fence(error: DBAPIError) -> bool:
    """Did the fence of a transaction refuse it? See ``postgresql``."""
    where = getattr(error.orig, "diag", None)
    return _sqlstate(error) == "23502" and where is not None and (where.table_name, where.column_name) == _FENCE


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the rest says more about the same
