"""Statements that travel together: a PostgreSQL is asked all questions at once, and told the rest with the commit.

A commit of a few names is some fifteen statements. One after another each waits for its answer, and a PostgreSQL was
slower than SQLite by that alone; together they are two or three round trips. On SQLite, where no one waits, every
statement is executed at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, ColumnElement, Connection, Engine, Insert, Table, bindparam, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import Executable
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Boolean

Question: TypeAlias = tuple[Executable, Mapping[str, Any]]
"""A statement and its parameters."""

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_POSTED = "posted"


class among(FunctionElement[bool]):
    """``among(column)``: is its value one of the list given as parameter ``some``? The same text for any length, on
    PostgreSQL, so that it is prepared once."""

    name = "among"
    type = Boolean()
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], name: str = "some") -> None:
        kind = column.type.with_variant(postgresql.ARRAY(column.type), "postgresql")
        super().__init__(column, bindparam(name, type_=kind))

    def self_group(self, against: Any = None) -> Any:
        """As it is: where a database has no booleans, SQLAlchemy would write ``= 1`` behind it, and SQLite would then
        read the whole table instead of its index."""
        return self


@compiles(among)
def _among_in(element: among, compiler: Any, **options: Any) -> str:
    column, some = element.clauses
    assert isinstance(some, BindParameter)
    return str(compiler.process(column.in_(bindparam(some.key, expanding=True)), **options))


@compiles(among, "postgresql")
def _among_any(element: among, compiler: Any, **options: Any) -> str:
    column, some = element.clauses
    return f"{compiler.process(column, **options)} = ANY({compiler.process(some, **options)})"


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def ask(connection: Connection, questions: Sequence[Question]) -> list[list[Any]]:
    """The rows of each of ``questions``, whose statements are made once and kept."""
    if not is_postgresql(connection):
        return [list(connection.execute(statement, parameters)) for statement, parameters in questions]
    return _send(connection, [(_sql(statement), parameters) for statement, parameters in questions])


def post(connection: Connection, statement: Executable, rows: Rows) -> None:
    """Executes ``statement`` for each of ``rows``: at the latest before the next statement, or the commit."""
    if not rows:
        return
    if is_postgresql(connection):
        _posted(connection).extend((_sql(statement), row) for row in rows)
    else:
        connection.execute(statement, list(rows))


def post_rows(
    connection: Connection, statement: Insert, keys: tuple[str, ...], update: tuple[str, ...], rows: Rows
) -> None:
    """As ``post`` of an insert; on PostgreSQL all ``rows`` are one statement. ``keys``, ``update``: as in
    ``insert_or_update``, both empty for a plain insert. Of rows with equal keys the last counts."""
    if not rows:
        return
    if not is_postgresql(connection):
        connection.execute(statement, list(rows))
        return
    if keys:
        rows = list({tuple(row[key] for key in keys): row for row in rows}.values())
    assert isinstance(statement.table, Table)
    names = tuple(rows[0])
    _posted(connection).append((_insert(statement.table, names, keys, update, ()), _columns_of(rows, names)))


def _columns_of(rows: Rows, names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in names}


def add_rows(connection: Connection, inserts: Sequence[tuple[Insert, tuple[str, ...], Rows]]) -> list[list[Any]]:
    """Inserts the rows of each of ``inserts``, (statement, the columns that it returns, rows); what they return."""
    if not is_postgresql(connection):
        return [list(connection.execute(statement, list(rows))) if rows else [] for statement, _, rows in inserts]
    sent = []
    for statement, returning, rows in inserts:
        if rows:
            assert isinstance(statement.table, Table)
            names = tuple(rows[0])
            sent.append((_insert(statement.table, names, (), (), returning), _columns_of(rows, names)))
    answers = iter(_send(connection, sent) if sent else ())
    return [next(answers) if rows else [] for _, _, rows in inserts]


def finish(connection: Connection, fence: str, parameters: Mapping[str, Any]) -> bool:
    """Sends what was posted, then ``fence`` and the commit: one journey. DBAPIError as from any statement.

    ``fence`` is for psycopg; was there a row that it changed?
    """
    fenced, _ = _journey(connection, [(fence, parameters), ("COMMIT", {})])
    return bool(fenced.rowcount)


def travel(engine: Engine) -> None:
    """What was posted goes before whatever else is executed on ``engine``, and is dropped with a rollback."""

    @event.listens_for(engine, "before_cursor_execute")
    def _first(connection: Connection, *_: Any) -> None:
        if connection.info.get(_POSTED):
            _send(connection, [])

    @event.listens_for(engine, "commit")
    def _before_commit(connection: Connection) -> None:
        if connection.info.get(_POSTED):
            _send(connection, [])

    @event.listens_for(engine, "rollback")
    def _undone(connection: Connection) -> None:
        if not connection.invalidated:  # else it went with the connection
            connection.info.pop(_POSTED, None)


def _posted(connection: Connection) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = connection.info.setdefault(_POSTED, [])
    return found


def _send(connection: Connection, last: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
    """All that was posted, then ``last``, in one journey; the rows of each of ``last``."""
    return [cursor.fetchall() if cursor.description else [] for cursor in _journey(connection, last)]


def _journey(connection: Connection, last: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Any]:
    """As ``_send``; the cursors of ``last``."""
    import psycopg
    from psycopg.rows import namedtuple_row

    first = connection.info.pop(_POSTED, [])
    server: Any = connection.connection.driver_connection
    at = ""
    try:
        cursors = []
        with server.pipeline():
            for at, parameters in [*first, *last]:
                cursor = server.cursor(row_factory=namedtuple_row)
                cursor.execute(at, parameters or None)
                cursors.append(cursor)
        return cursors[len(first) :]
    except psycopg.Error as error:
        raise DBAPIError.instance(  # as SQLAlchemy says it of its own statements
            at, None, error, psycopg.Error, dialect=connection.dialect, connection_invalidated=server.closed
        ) from error


_DIALECT: Any = None


@functools.lru_cache(maxsize=256)
def _sql(statement: Executable) -> str:
    """The statement's text for psycopg, with its parameters by name."""
    global _DIALECT
    if _DIALECT is None:
        from sqlalchemy.dialects.postgresql import psycopg

        _DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]
    return str(statement.compile(dialect=_DIALECT))  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=64)
def _insert(
    table: Table, names: tuple[str, ...], keys: tuple[str, ...], update: tuple[str, ...], returning: tuple[str, ...]
) -> str:
    """An insert of any number of rows, given as one array for each column."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = (table.c[name].type.compile(dialect=dialect) for name in names)
    arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in zip(names, types, strict=True))
    text = f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM unnest({arrays})"  # noqa: S608 - our names
    if keys:
        changed = ", ".join(f"{name} = excluded.{name}" for name in update)
        text += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed}"
    if returning:
        text += f" RETURNING {', '.join(returning)}"
    return text
