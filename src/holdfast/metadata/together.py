"""Statements that travel together: a PostgreSQL is asked all questions at once, and told the rest with the commit.

A commit of a few names is some fifteen statements. One after another each waits for its answer, and a PostgreSQL was
slower than SQLite by that alone; together they are two or three round trips. On SQLite, where no one waits, every
statement is executed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.sql.expression import Executable

from holdfast.metadata.journey import Answer, Sent, journey
from holdfast.metadata.prepared import (
    Parameters,
    Prepared,
    answer,
    execute,
    execute_many,
    for_postgresql,
    for_sqlite,
    insert,
    is_postgresql,
)

Question: TypeAlias = tuple[Executable, Parameters]
"""A statement and its parameters."""

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_POSTED = "posted"
_AHEAD = "ahead"
_COMMIT = Prepared("COMMIT", None)
_NEXT = Prepared(
    "SELECT nextval(pg_get_serial_sequence($1, 'number')) FROM generate_series(1, $2)", tuple, ("table", "count")
)

NUMBERS_AHEAD = 256


def ask(connection: Connection, questions: Sequence[Question], *, alone: bool = False) -> list[list[Any]]:
    """The rows of each of ``questions``, whose statements are made once and kept; ``alone``: outside a transaction."""
    if not is_postgresql(connection):
        return [answer(connection, statement, parameters) for statement, parameters in questions]
    return _send(
        connection, [Sent(for_postgresql(statement), parameters) for statement, parameters in questions], alone
    )


def post(connection: Connection, statement: Executable, rows: Rows) -> None:
    """Executes ``statement`` for each of ``rows``: at the latest before the next statement, or the commit."""
    if not rows:
        return
    if is_postgresql(connection):
        prepared = for_postgresql(statement)
        _posted(connection).extend(Sent(prepared, row) for row in rows)
    else:
        execute_many(connection, for_sqlite(statement, 0), rows)


def post_rows(
    connection: Connection, table: Table, rows: Rows, keys: tuple[str, ...] = (), update: tuple[str, ...] = ()
) -> None:
    """As ``post`` of an insert into ``table``; on PostgreSQL all ``rows`` are one statement. Where a row with the same
    ``keys`` is there, the columns ``update`` are set instead. Of rows with equal keys the last counts."""
    if not rows:
        return
    names = tuple(rows[0])
    prepared = insert(connection.dialect.name, table, names, keys, update)
    if not is_postgresql(connection):
        execute_many(connection, prepared, rows)
        return
    if keys:
        rows = list({tuple(row[key] for key in keys): row for row in rows}.values())
    _posted(connection).append(Sent(prepared, _columns_of(rows, names)))


def _columns_of(rows: Rows, names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in names}


def add_rows(connection: Connection, table: Table, rows: Rows) -> list[int]:
    """Inserts new rows; the numbers that they get, in order."""
    if not rows:
        return []
    if not is_postgresql(connection):
        prepared = insert(connection.dialect.name, table, tuple(rows[0]), returning=("number",))
        return [made.number for row in rows for made in execute(connection, prepared, row)]
    numbers = _numbers(connection, table, len(rows))
    post_rows(connection, table, [{**row, "number": number} for row, number in zip(rows, numbers, strict=True)])
    return numbers


def _numbers(connection: Connection, table: Table, count: int) -> list[int]:
    """Numbers for new rows on PostgreSQL. They are taken ahead, because to wait for them is one more journey; those
    that are not used in this connection's life are never used."""
    ahead: dict[str, deque[int]] = connection.info.setdefault(_AHEAD, {})
    numbers = ahead.setdefault(table.name, deque())
    if len(numbers) < count:
        names = {"table": table.name, "count": max(count, NUMBERS_AHEAD)}
        [answer] = _journey(connection, [Sent(_NEXT, names)])
        numbers.extend(row[0] for row in answer.rows)
    return [numbers.popleft() for _ in range(count)]


def finish(connection: Connection, fence: Prepared, parameters: Parameters) -> bool:
    """Sends what was posted, then ``fence`` and the commit: one journey. DBAPIError as from any statement.

    Was there a row that ``fence`` changed?
    """
    fenced, _ = _journey(connection, [Sent(fence, parameters), Sent(_COMMIT, {})])
    return bool(fenced.changed)


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


def _posted(connection: Connection) -> list[Sent]:
    found: list[Sent] = connection.info.setdefault(_POSTED, [])
    return found


def _send(connection: Connection, last: Sequence[Sent], alone: bool = False) -> list[list[Any]]:
    """The rows of each of ``last``."""
    return [answer.rows for answer in _journey(connection, last, alone)]


def _journey(connection: Connection, last: Sequence[Sent], alone: bool = False) -> list[Answer]:
    """All that was posted, then ``last``, in one journey; what is answered to the latter."""
    first = connection.info.pop(_POSTED, [])
    return journey(connection, [*first, *last], alone=alone)[len(first) :]
