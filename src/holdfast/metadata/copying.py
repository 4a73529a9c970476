"""Copies a coordinator's database row by row into an empty one of the other kind, and shows that both hold the same.

The copy is one transaction: an interrupted one leaves nothing, and may be begun again. Rows go in portions, in the
order of their primary keys, so memory does not grow with the database. What is compared are counts and digests over all
rows of each table, read back from the target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, insert, select, text, tuple_
from sqlalchemy.exc import DBAPIError, OperationalError

from holdfast.errors import BadConfig, HoldfastError, Unavailable
from holdfast.files import OsFiles
from holdfast.metadata.database import migrate
from holdfast.metadata.dialects import is_lost, postgresql_engine, sqlite_engine, words
from holdfast.metadata.postgresql import claim
from holdfast.metadata.tables import metadata

PORTION = 2000


@dataclass(frozen=True, slots=True)
class TableSum:
    """What a table holds: how many rows, and SHA-256 over all of them in order, which is the same on every database."""

    table: str
    rows: int
    digest: str


def copy_database(source: str, target: str) -> list[TableSum]:
    """Copies the database at the URL ``source`` to ``target``, each ``sqlite:PATH`` or a PostgreSQL's; durable when it
    returns. Blocks; nobody may work on either meanwhile, and of a PostgreSQL it is seen to.

    BadConfig if the source is none, the target is not empty, or a coordinator works on one of them.
    """
    made = _path(target)
    if made is not None and OsFiles().size(made):
        raise BadConfig(f"{made} is there already: a copy replaces nothing")
    read = _path(source)
    if read is not None and not OsFiles().size(read):
        raise BadConfig(f"there is no database {read}")
    part = made and made.with_name(f".{made.name}.part")
    try:
        if part is None:
            return _copy(source, target)
        _remove(part)
        files = OsFiles()
        files.close(files.create(part))  # made here so that its mode is 0600
        sums = _copy(source, f"sqlite:{part}")
        assert made is not None
        files.rename(part, made)  # closed, and so in one file
        files.sync_directory(part.parent)
        return sums
    except OperationalError as error:
        if is_lost(error):
            raise Unavailable(f"a database was lost, and nothing is copied: {words(error)}; begin again") from error
        raise BadConfig(f"the databases cannot be copied: {words(error)}") from error
    except DBAPIError as error:
        raise BadConfig(f"the databases cannot be copied: {words(error)}") from error
    except OSError as error:
        if isinstance(error, HoldfastError):
            raise
        raise BadConfig(f"{made}: {error.strerror or error}") from error


def _copy(source: str, target: str) -> list[TableSum]:
    with ExitStack() as opened:
        reading = opened.enter_context(_opened(source))
        writing = opened.enter_context(_opened(target))
        if not _is_ours(reading):
            raise BadConfig(f"there is no network in {_shown(source)}")
        if _is_ours(writing):
            raise BadConfig(f"{_shown(target)} holds a network already: a copy goes into an empty database")
        migrate(reading)
        migrate(writing)
        sums = []
        for table in metadata.sorted_tables:
            told = _Sum(table)
            for rows in _portions(reading, table):
                told.add(rows)
                writing.execute(insert(table), [dict(row) for row in rows])
            read_back = _Sum(table)
            for rows in _portions(writing, table):
                read_back.add(rows)
            if told.made() != read_back.made():
                raise HoldfastError(f"table {table.name} is not the same in both databases: nothing was copied")
            sums.append(told.made())
        _count_on(writing)
    return sums


def _opened(url: str) -> Any:
    """One transaction that nobody else disturbs, kept when its block ends well."""
    path = _path(url)
    engine = sqlite_engine(path) if path is not None else postgresql_engine(url)
    return _Transaction(engine, postgresql=path is None)


class _Transaction:
    def __init__(self, engine: Engine, *, postgresql: bool) -> None:
        self._engine = engine
        self._postgresql = postgresql
        self._held = ExitStack()

    def __enter__(self) -> Connection:
        try:
            connection = self._held.enter_context(self._engine.begin())
            if self._postgresql:
                claim(connection)
        except BaseException:
            self._held.close()
            self._engine.dispose()
            raise
        return connection

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._held.__exit__(kind, error, trace)
        finally:
            self._engine.dispose()


class _Sum:
    """Told all rows of a table, in order."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows = 0
        self._hash = hashlib.sha256()

    def add(self, rows: list[Any]) -> None:
        self._rows += len(rows)
        for row in rows:
            self._hash.update(repr([_plain(row[column.name]) for column in self._table.columns]).encode())

    def made(self) -> TableSum:
        return TableSum(self._table.name, self._rows, self._hash.hexdigest())


def _plain(value: Any) -> Any:
    """The same for what both databases read as equal."""
    return bytes(value) if isinstance(value, bytes | memoryview) else value


def _portions(connection: Connection, table: Table) -> Iterator[list[Any]]:
    """All rows by their primary key, PORTION at a time."""
    key = list(table.primary_key.columns)
    after: tuple[Any, ...] | None = None
    while True:
        query = select(table).order_by(*key).limit(PORTION)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after) if len(key) > 1 else key[0] > after[0])
        rows = list(connection.execute(query).mappings())
        if not rows:
            return
        yield rows
        after = tuple(rows[-1][column.name] for column in key)


def _is_ours(connection: Connection) -> bool:
    """Is there a network, or anything else where it would lie?"""
    return connection.dialect.has_table(connection, "meta") and bool(
        connection.execute(select(func.count()).select_from(metadata.tables["meta"])).scalar_one()
    )


def _count_on(connection: Connection) -> None:
    """A PostgreSQL numbers new rows from where the copied ones end."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        [column, *more] = list(table.primary_key.columns)
        if more:
            continue
        at = text("SELECT pg_get_serial_sequence(:table, :column)")
        sequence = connection.execute(at, {"table": table.name, "column": column.name}).scalar_one()
        highest = connection.execute(select(func.max(column))).scalar_one()
        if sequence is not None and highest is not None:
            connection.execute(text("SELECT setval(:sequence, :at)"), {"sequence": sequence, "at": highest})


def path_of(url: str) -> Path:
    """Of ``sqlite:PATH`` or ``sqlite://PATH``."""
    return Path(url.removeprefix("sqlite:").removeprefix("//"))


def _path(url: str) -> Path | None:
    """None for another database."""
    return path_of(url) if url.startswith("sqlite:") else None


def _shown(url: str) -> str:
    """A database's name without what may be a password."""
    path = _path(url)
    return str(path) if path is not None else "the PostgreSQL"


def _remove(path: Path) -> None:
    files = OsFiles()
    for end in ("", "-wal", "-shm"):
        files.unlink(path.with_name(path.name + end))
