"""One journey to a PostgreSQL and back: prepared statements go out in one piece, and their answers are awaited once.

psycopg has a pipeline too, but sends each statement by itself and looks for answers in between: for a commit that was
twenty waits instead of three, and the server woke up for each. So this speaks to libpq, below psycopg's cursors, on the
connection that SQLAlchemy and psycopg keep; both find it between two journeys as if a cursor had done it all.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from holdfast.metadata.prepared import Parameters, Prepared

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult
    from psycopg.waiting import Ready, Wait

_BEGIN = Prepared("BEGIN", None)
_NAMES = "prepared"
_numbers = itertools.count()


class Sent(NamedTuple):
    """``prepared`` for PostgreSQL, with its parameters."""

    prepared: Prepared
    parameters: Parameters


class Answer(NamedTuple):
    """``changed``: how many rows the statement has changed, or found."""

    rows: list[Any]
    changed: int


def journey(connection: Connection, sent: Sequence[Sent], *, alone: bool = False) -> list[Answer]:
    """What is answered to each of ``sent``, in the transaction that SQLAlchemy has begun; DBAPIError as from it.

    ``alone``: in a transaction of their own, which has ended when this returns. What comes after a statement that
    failed is not done.
    """
    import psycopg
    from psycopg.adapt import Transformer
    from psycopg.pq import TransactionStatus

    server: Any = connection.connection.driver_connection
    begin = not alone and server.pgconn.transaction_status == TransactionStatus.IDLE
    every = [Sent(_BEGIN, {}), *sent] if begin else sent
    done: list[PGresult] = []
    try:
        server.wait(_exchange(server.pgconn, connection.info.setdefault(_NAMES, {}), every, done))
        load = Transformer(server)
        return [_answer(load, *each) for each in zip(sent, done[-len(sent) :], strict=True)]
    except psycopg.Error as error:
        connection.info.pop(_NAMES, None)  # some may be prepared and some not: they get new names
        raise DBAPIError.instance(  # as SQLAlchemy says it of its own statements
            every[min(len(done), len(every) - 1)].prepared.text, None, error, psycopg.Error,
            dialect=connection.dialect, connection_invalidated=server.closed,
        ) from error  # fmt: skip


def _exchange(
    server: PGconn, names: dict[str, bytes], sent: Sequence[Sent], done: list[PGresult]
) -> Generator[Wait, Ready, None]:
    """Fills ``done``; psycopg's ``Connection.wait`` drives it. psycopg.Error for what the server refused first."""
    from psycopg.errors import OperationalError, error_from_result
    from psycopg.pq import ConnStatus, ExecStatus
    from psycopg.waiting import Ready, Wait

    server.enter_pipeline_mode()
    steps: list[bool] = []
    for each in sent:
        steps += _queue(server, names, each)
    server.pipeline_sync()
    while server.flush():
        if (yield Wait.RW) & Ready.R:
            server.consume_input()
    refusal: PGresult | None = None
    while True:
        while server.is_busy():
            yield Wait.R
            server.consume_input()
        result = server.get_result()
        if result is None:  # the end of one statement
            if server.status != ConnStatus.OK:
                raise OperationalError("the connection is lost")
        elif result.status == ExecStatus.PIPELINE_SYNC:
            break
        elif result.status == ExecStatus.FATAL_ERROR:
            refusal = refusal or result
        elif refusal is None and steps.pop(0):
            done.append(result)
    server.exit_pipeline_mode()
    if refusal is not None:
        raise error_from_result(refusal)


def _queue(server: PGconn, names: dict[str, bytes], sent: Sent) -> list[bool]:
    """What the server will answer to it: is it what was asked for?"""
    (text, _, parameters), given = sent.prepared, sent.parameters
    values = [given[name] for name in parameters]
    name = names.get(text)
    steps = [True]
    if name is None:
        name = names[text] = b"holdfast_%d" % next(_numbers)
        server.send_prepare(name, text.encode())
        steps = [False, True]
    binary = [isinstance(value, bytes) for value in values]
    server.send_query_prepared(name, list(map(_encoded, values)), binary, result_format=1)
    return steps


def _answer(load: Any, sent: Sent, result: PGresult) -> Answer:
    load.set_pgresult(result)
    row = sent.prepared.row
    return Answer([] if row is None else load.load_rows(0, result.ntuples, row), result.command_tuples or 0)


def _encoded(value: Any) -> bytes | None:
    """As libpq takes it: bytes as they are, all else as text; a list is an array."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return repr(value).encode()
    if isinstance(value, int):
        return b"%d" % value
    return b"{" + b",".join(map(_element, value)) + b"}"


def _element(value: bytes | float | None) -> bytes:
    if isinstance(value, bytes):
        return b'"\\\\x%s"' % value.hex().encode()
    return _encoded(value) or b"NULL"
