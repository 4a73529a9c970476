"""Statements that run with every request: SQLAlchemy writes their text once, and the driver is given it.

Having SQLAlchemy execute a statement costs twenty times what SQLite needs to answer it, and a small put needs fifteen.
So tables and statements stay SQLAlchemy's, and only the way of a statement that was made once, at import, to the
driver is ours. What is asked seldom, or is put together when it is asked, goes through SQLAlchemy as ever.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import Executable
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Boolean

Parameters: TypeAlias = Mapping[str, Any]

SOME = "some"
"""The parameter that is a list; see ``among``."""

_LIST = f"(:{SOME})"


class Prepared(NamedTuple):
    """``row``: makes a row with names of what the driver gives, None where there are none; ``names``: of $1, $2..."""

    text: str
    row: Callable[[Iterable[Any]], Any] | None
    names: Sequence[str] = ()


class among(FunctionElement[bool]):
    """``among(column)``: is its value one of the list given as parameter ``some``? Only in prepared statements."""

    name = "among"
    type = Boolean()
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__(column, bindparam(SOME, type_=postgresql.ARRAY(column.type)))

    def self_group(self, against: Any = None) -> Any:
        """As it is: where a database has no booleans, SQLAlchemy would write ``= 1`` behind it, and SQLite would then
        read the whole table instead of its index."""
        return self


@compiles(among)
def _among_in(element: among, compiler: Any, **options: Any) -> str:
    column, _ = element.clauses
    return f"{compiler.process(column, **options)} IN {_LIST}"


@compiles(among, "postgresql")
def _among_any(element: among, compiler: Any, **options: Any) -> str:
    column, some = element.clauses
    return f"{compiler.process(column, **options)} = ANY({compiler.process(some, **options)})"


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


@functools.lru_cache(maxsize=256)
def for_postgresql(statement: Executable) -> Prepared:
    """Parameters by number; a list is an array."""
    dialect: Any = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    return Prepared(str(compiled), _row_of(statement), tuple(compiled.positiontup))


@functools.lru_cache(maxsize=1024)
def for_sqlite(statement: Executable, count: int) -> Prepared:
    """Parameters by name, those of a list of ``count`` values by ``list_names``."""
    dialect: Any = sqlite.dialect(paramstyle="named")
    text = str(statement.compile(dialect=dialect))  # type: ignore[attr-defined]
    some = f"({', '.join(':' + name for name in list_names(count))})"
    return Prepared(text.replace(_LIST, some), _row_of(statement))


def _row_of(statement: Executable) -> Callable[[Iterable[Any]], Any] | None:
    return _row(tuple(statement.selected_columns.keys())) if isinstance(statement, Select) else None


@functools.lru_cache(maxsize=256)
def _row(names: tuple[str, ...]) -> Callable[[Iterable[Any]], Any]:
    row: Any = namedtuple("Row", names)  # type: ignore[misc]
    made: Callable[[Iterable[Any]], Any] = row._make
    return made


@functools.lru_cache(maxsize=16)
def list_names(count: int) -> tuple[str, ...]:
    return tuple(f"{SOME}{at}" for at in range(count))


@functools.lru_cache(maxsize=128)
def insert(
    dialect: str, table: Table, names: tuple[str, ...], keys: tuple[str, ...] = (), update: tuple[str, ...] = (),
    returning: tuple[str, ...] = (),
) -> Prepared:  # fmt: skip
    """Inserts one row, on PostgreSQL any number of rows, given as one array for each column.

    Where a row with the same ``keys`` is there, it sets the columns ``update`` instead.
    """
    if dialect == "postgresql":
        types: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
        arrays = (f"${at}::{table.c[name].type.compile(dialect=types)}[]" for at, name in enumerate(names, 1))
        values = f"SELECT * FROM unnest({', '.join(arrays)})"  # noqa: S608 - our names
    else:
        values = f"VALUES ({', '.join(':' + name for name in names)})"
    text = f"INSERT INTO {table.name} ({', '.join(names)}) {values}"
    if keys:
        changed = ", ".join(f"{name} = excluded.{name}" for name in update)
        text += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed}"
    if returning:
        text += f" RETURNING {', '.join(returning)}"
    return Prepared(text, _row(returning) if returning else None, names)


# --- SQLite, where no one waits ---------------------------------------------------------------------------------------


def answer(connection: Connection, statement: Executable, parameters: Parameters) -> list[Any]:
    """The rows of ``statement``.

    A list is filled up to a power of two with its last value, so that few texts are prepared.
    """
    some = parameters.get(SOME)
    if some is None:
        prepared = for_sqlite(statement, 0)
    else:
        count = 1 << (len(some) - 1).bit_length() if some else 0
        prepared = for_sqlite(statement, count)
        full = [*some, *some[-1:] * (count - len(some))]
        parameters = {**parameters, **dict(zip(list_names(count), full, strict=True))}
    return execute(connection, prepared, parameters)


def execute(connection: Connection, prepared: Prepared, parameters: Parameters) -> list[Any]:
    """The rows of a prepared statement; DBAPIError as from SQLAlchemy."""
    rows = _driver(connection, prepared.text, parameters, many=False).fetchall()
    return rows if prepared.row is None else list(map(prepared.row, rows))


def execute_many(connection: Connection, prepared: Prepared, rows: Sequence[Parameters]) -> None:
    """A prepared statement that gives no rows, for each of ``rows``; DBAPIError as from SQLAlchemy."""
    _driver(connection, prepared.text, rows, many=True)


def _driver(connection: Connection, text: str, parameters: Any, *, many: bool) -> Any:
    driver: Any = connection.connection.driver_connection
    for seen in connection.engine.dispatch.before_cursor_execute:  # who watches the engine sees these too
        seen(connection, None, text, parameters, None, many)
    try:
        return (driver.executemany if many else driver.execute)(text, parameters)
    except driver.Error as error:
        raise DBAPIError.instance(text, None, error, driver.Error, dialect=connection.dialect) from error
