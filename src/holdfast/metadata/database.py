"""Opens the coordinator's database, brings its schema up to date and runs transactions, one at a time.

All work happens in the pool that is given. It has one thread, which also orders the transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from holdfast.errors import BadConfig, BadRequest, Conflict, HoldfastError, NoSpace, StorePoisoned, Unavailable
from holdfast.files import OsFiles
from holdfast.metadata.dialects import is_busy, is_collision, is_disk_failure, is_full, is_lost, sqlite_engine, words
from holdfast.metadata.postgresql import TOO_LATE, TRIES_MAX, AnswerLost, Overtaken, Session
from holdfast.metadata.together import Question, ask
from holdfast.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

NEWEST = "0007"
"""The last of ``migrations/versions``."""

SETTLE_WAIT_S = 0.5
SETTLE_TRIES = 60


class Below(Protocol):
    """One connection; used by one thread."""

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """``work(connection)``, committed and synced when this returns, or undone when it raises."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        """The rows of each of ``questions``, of what is committed."""
        ...

    def close(self) -> None:
        """May be called twice."""
        ...


class Database:
    """A database with the newest schema. ``run`` may be called at any time from the event loop."""

    def __init__(self, below: Below, pool: Pool) -> None:
        self.poisoned: str | None = None
        """Why nothing is read or written any more: a database that failed is not asked again in this run."""
        self.overtaken = False
        """Was it poisoned because another coordinator has taken this one's place?"""
        self._below = below
        self._pool = pool

    @classmethod
    async def open(cls, path: Path, pool: Pool) -> Database:
        """The SQLite database at ``path``, made if need be; BadConfig if it cannot be used.

        ``pool`` must have exactly one worker and serves nothing else; ``close`` does not close it.
        """
        assert pool.workers == 1, "there is one connection, which belongs to one thread"
        return cls(await pool.run(_open, path), pool)

    @classmethod
    async def connect(cls, url: str, pool: Pool) -> Database:
        """The PostgreSQL database at ``url``, which must exist and is this coordinator's alone; ``pool`` as above.

        BadConfig if it cannot be used, Occupied if another coordinator has it, Unavailable if nobody answers there.
        """
        assert pool.workers == 1, "there is one connection, which belongs to one thread"
        return cls(await pool.run(_connect, url), pool)

    @property
    def shared(self) -> bool:
        """May another coordinator wait to take this one's place?"""
        return isinstance(self._below, Session)

    async def run(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(connection, ...)`` in one transaction: committed and synced when this returns, or undone.

        ``function`` may be run again when the transaction was undone, so it changes nothing else. NoSpace when the
        disk is full, Unavailable when the server is away, StorePoisoned once the database has failed.
        """
        for left in reversed(range(TRIES_MAX)):
            try:
                return await self._pool.run(self._checked, lambda: self._transaction(function, args, kwargs))
            except AnswerLost as lost:
                if await self._settled(lost):
                    result: T = lost.result
                    return result
                if not left:
                    raise Unavailable("the coordinator's database was away, and undid a change; try again") from lost
        raise AssertionError("the last try returns or raises")

    async def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        """The rows of each of ``questions``, all of one moment, since nobody else writes: without a transaction, and in
        one journey. Errors as of ``run``."""
        return await self._pool.run(self._checked, lambda: self._below.ask(questions))

    async def _settled(self, lost: AnswerLost) -> bool:
        """Was it committed? Asked until the server is back, because what is known here must follow what is there."""
        settled = False
        try:
            for _ in range(SETTLE_TRIES):
                with contextlib.suppress(Unavailable):
                    committed = await self._pool.run(self._checked, lost.settle)
                    settled = True
                    return committed
                if self.poisoned is not None:
                    raise StorePoisoned(self.poisoned)
                await asyncio.sleep(SETTLE_WAIT_S)
            raise Unavailable("the coordinator's database is away, and a change may have been made; try again")
        finally:
            if not settled:
                lost.abandoned = True
                if lost.committed:  # found by another's transaction, in the moment before
                    self.poisoned = self.poisoned or TOO_LATE

    def _transaction(self, function: Callable[..., T], args: tuple[object, ...], kwargs: dict[str, object]) -> T:
        return self._below.transaction(lambda connection: function(connection, *args, **kwargs))

    def _checked(self, function: Callable[[], T]) -> T:
        """``function()`` with the errors of this project."""
        if self.poisoned is not None:
            raise StorePoisoned(self.poisoned)
        try:
            return function()
        except StorePoisoned as error:
            self.poisoned, self.overtaken = error.detail, isinstance(error, Overtaken)
            raise
        except IntegrityError as error:
            raise Conflict("two changes met in the database; try again") from error
        except DataError as error:
            raise BadRequest("the coordinator's database cannot hold such a value") from error
        except DBAPIError as error:
            if is_full(error):
                raise NoSpace("the disk of the coordinator's database is full") from error
            if is_disk_failure(error):
                self.poisoned = (
                    f"the disk of the coordinator's database failed ({words(error)}): look at it and restart"
                )
                raise StorePoisoned(self.poisoned) from error
            if is_lost(error) or is_busy(error) or is_collision(error):
                raise Unavailable("the coordinator's database is busy or away; try again") from error
            raise HoldfastError(f"the coordinator's database failed: {words(error)}") from error
        except SQLAlchemyError as error:
            raise HoldfastError("the coordinator's database does not understand a query") from error

    async def close(self) -> None:
        """Closes the connection. May be called twice."""
        await self._pool.run(self._below.close)


class _Sqlite:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection = engine.connect()  # kept: taking it anew each time costs more than BEGIN and COMMIT do

    def transaction(self, work: Callable[[Connection], T]) -> T:
        with self._connection.begin():
            return work(self._connection)

    def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        return ask(self._connection, questions)

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


def _open(path: Path) -> Below:
    files = OsFiles()  # SQLite goes past the seam of files, and so does this
    if files.size(path) is None and path.parent.is_dir():
        with contextlib.suppress(FileExistsError):
            files.close(files.create(path))  # made here so that its mode is 0600, which its journal then has too
    engine = sqlite_engine(path)
    try:
        with engine.begin() as connection:
            migrate(connection)
    except SQLAlchemyError as error:
        engine.dispose()
        raise BadConfig(f"{path} cannot be used as the coordinator's database: {error}") from error
    except BadConfig:
        engine.dispose()
        raise
    return _Sqlite(engine)


def _connect(url: str) -> Below:
    try:
        return Session.open(url, migrate)
    except Overtaken as error:
        raise Unavailable("the database was taken by another coordinator in this moment; try again") from error
    except DBAPIError as error:
        if is_lost(error):
            raise Unavailable(f"the coordinator's database is away: {words(error)}") from error
        raise BadConfig(f"the PostgreSQL cannot be used as the coordinator's database: {words(error)}") from error


def migrate(connection: Connection) -> None:
    """Brings the schema forward to the newest, in the transaction that has begun; never back.

    BadConfig if the database was written by a newer holdfast.
    """
    known = connection.dialect.has_table(connection, "alembic_version")
    if known and connection.scalar(text("SELECT version_num FROM alembic_version")) == NEWEST:
        return
    from alembic import command  # imported here, because it takes as long as the rest of a start
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "holdfast.metadata:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise BadConfig("this database was written by a newer holdfast: upgrade the coordinator") from error
