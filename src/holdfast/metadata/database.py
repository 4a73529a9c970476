"""Opens the coordinator's database, brings its schema up to date and runs transactions, one at a time.

All work happens in the pool that is given. For SQLite it has one thread, which also orders the transactions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from holdfast.errors import BadConfig, Conflict, HoldfastError, NoSpace, StorePoisoned
from holdfast.files import OsFiles
from holdfast.metadata.dialects import is_disk_failure, is_full, sqlite_engine
from holdfast.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """A database with the newest schema. ``run`` may be called at any time from the event loop."""

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self.poisoned: str | None = None
        """Why nothing is read or written any more: a disk that failed is not asked again in this run."""
        self._engine = engine
        self._pool = pool

    @classmethod
    async def open(cls, path: Path, pool: Pool) -> Database:
        """The SQLite database at ``path``, made if need be; BadConfig if it cannot be used.

        ``pool`` must have exactly one worker and serves nothing else; ``close`` does not close it.
        """
        assert pool.workers == 1, "SQLite has one connection, which belongs to one thread"
        return cls(await pool.run(_open, path), pool)

    async def run(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(connection, ...)`` in one transaction: committed and synced when this returns, or undone.

        NoSpace when the disk is full, StorePoisoned once it has failed.
        """
        return await self._pool.run(self._transaction, function, args, kwargs)

    def _transaction(self, function: Callable[..., T], args: tuple[object, ...], kwargs: dict[str, object]) -> T:
        if self.poisoned is not None:
            raise StorePoisoned(self.poisoned)
        try:
            with self._engine.begin() as connection:
                return function(connection, *args, **kwargs)
        except IntegrityError as error:
            raise Conflict("two changes met in the database; try again") from error
        except DBAPIError as error:
            if is_full(error):
                raise NoSpace("the disk of the coordinator's database is full") from error
            if is_disk_failure(error):
                self.poisoned = f"the disk of the coordinator's database failed ({error.orig}): look at it and restart"
                raise StorePoisoned(self.poisoned) from error
            raise HoldfastError(f"the coordinator's database failed: {error.orig}") from error
        except SQLAlchemyError as error:
            raise HoldfastError("the coordinator's database does not understand a query") from error

    async def close(self) -> None:
        """Closes the connection. May be called twice."""
        await self._pool.run(self._engine.dispose)


def _open(path: Path) -> Engine:
    files = OsFiles()  # SQLite goes past the seam of files, and so does this
    if files.size(path) is None and path.parent.is_dir():
        with contextlib.suppress(FileExistsError):
            files.close(files.create(path))  # made here so that its mode is 0600, which its journal then has too
    engine = sqlite_engine(path)
    try:
        migrate(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        raise BadConfig(f"{path} cannot be used as the coordinator's database: {error}") from error
    except BadConfig:
        engine.dispose()
        raise
    return engine


def migrate(engine: Engine) -> None:
    """Brings the schema forward to the newest, in one transaction; never back.

    BadConfig if the database was written by a newer holdfast.
    """
    from alembic import command  # imported here: only a coordinator's start needs it
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "holdfast.metadata:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise BadConfig("this database was written by a newer holdfast: upgrade the coordinator") from error
