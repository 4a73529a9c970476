"""The one connection to a PostgreSQL: it can be lost, and then the next one first finds out what has become of all.

A session holds the advisory lock of the database, so no two coordinators ever work on one. What a coordinator keeps in
memory must follow the database. So every transaction that writes also replaces the stamp in ``meta``, which no two
changes ever share, as every opening does. A transaction that does not find the stamp that was left there is refused by
its own last statement (the fence); and a new connection goes on only if the stamp is the one that was left, or that of
a commit whose answer was lost: so it shows whether that was made, whether somebody else was here, and whether an old
copy took the database's place. (The status of the lost transaction's number, or the row's, would not do: after a crash
the number may be another's.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from holdfast import logs
from holdfast.errors import BadConfig, StorePoisoned, Unavailable
from holdfast.metadata.dialects import (
    is_answer,
    is_collision,
    is_fence,
    is_lock_timeout,
    is_lost,
    postgresql_engine,
    words,
)
from holdfast.metadata.prepared import Prepared
from holdfast.metadata.together import Question, ask, finish


class Occupied(BadConfig):
    """Another coordinator works on the database."""


class Overtaken(StorePoisoned):
    """Another coordinator has, since this one did."""


T = TypeVar("T")
_log = logs.get_logger(__name__)

LOCK_KEY = int.from_bytes(b"holdfast", "big")
LOCK_WAIT_S = 5  # a session whose process has died ends within this time
ALIVE = "holdfast at work"  # the name of a session whose coordinator shows all the time that it is alive
HUNG_S = 15  # one that has not done so for this time has lost its place
SERVER_VERSION_MIN = 130000
TRIES_MAX = 4
TOO_LATE = "a change was made whose answer came too late: restart the coordinator, which then knows of it"

_SETTINGS = text(
    "SELECT current_setting('server_version_num')::int, current_setting('fsync'), "
    "current_setting('synchronous_commit'), pg_is_in_recovery()"
)
_END_SESSION = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND backend_start = :start"
)
_SESSION = text("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
_LOCK_WAIT = text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
_END_HUNG = text(
    "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database() "
    "AND ((l.classid::bigint << 32) | l.objid::bigint) = :key AND a.application_name = :alive "
    "AND a.state <> 'active' AND a.state_change < now() - make_interval(secs => :hung)"
)
# The server notices within ten seconds that the other side is gone; on a socket in a directory it does anyway.
_NOTICE = text(
    "SELECT set_config('tcp_keepalives_idle', '3', false), set_config('tcp_keepalives_interval', '1', false), "
    "set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '8000', false)"
)
_ALIVE = text("SELECT set_config('application_name', :alive, false)")
_NETWORK = text("SELECT coordinator, name, urls FROM meta")
_LOCK = text("SELECT pg_advisory_lock(:key)")
OVERTAKEN = (
    "the database is not as this coordinator left it: another coordinator has worked on it, or an old copy was put in "
    "its place; see that only one runs, and start it again"
)
_STAMP = text("SELECT stamp FROM meta")
_NAME = text("SELECT gen_random_uuid()::text")
_OPENED = text("UPDATE meta SET stamp = :stamp")
_FENCED = Prepared(  # no stamp may be null, so one over another's stamp fails; one that wrote nothing needs none
    "UPDATE meta SET stamp = CASE WHEN stamp = $1 THEN $2 END WHERE pg_current_xact_id_if_assigned() IS NOT NULL",
    None,
    ("old", "new"),
)


class AnswerLost(Exception):
    """A commit was sent and its answer was lost. ``result`` is that of the work, if it was committed."""

    def __init__(self, session: Session, stamp: str, result: Any) -> None:
        super().__init__("the answer to a commit was lost")
        self.stamp = stamp
        self.result = result
        self.committed: bool | None = None
        self.abandoned = False
        """Nobody waits to hear it any more."""
        self._session = session

    def settle(self) -> bool:
        """Was it committed? Unavailable as long as the server is away. Blocks."""
        self._session.check()
        assert self.committed is not None, "a new connection finds it out"
        return self.committed


class Session:
    """Used by one thread."""

    def __init__(self, url: str) -> None:
        self._engine = postgresql_engine(url)
        self._connection: Connection | None = None
        self._backend: Any = None  # pid and start of the server's process for the last connection
        self._opened = False
        self._name = ""
        self._changes = 0
        self._stamp = ""  # that was left, empty in a database without a network
        self._lost: AnswerLost | None = None

    @classmethod
    def open(cls, url: str, migrate: Callable[[Connection], None]) -> Session:
        """BadConfig if it cannot be used or another coordinator has it, Unavailable if nobody answers; DBAPIError."""
        session = cls(url)
        try:
            connection = session._connect()
            with connection.begin():
                migrate(connection)
            with connection.begin():
                session._name = connection.execute(_NAME).scalar_one()
                if connection.execute(_OPENED, {"stamp": session._name}).rowcount:
                    session._stamp = session._name
        except BaseException:
            session.close()
            raise
        session._opened = True
        return session

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """See ``Below``. Run again if it was undone; AnswerLost if nobody knows yet whether it was committed."""
        return self._until_done(lambda connection: self._once(connection, work))

    def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        """See ``Below``."""
        return self._until_done(lambda connection: ask(connection, questions, alone=True))

    def _until_done(self, work: Callable[[Connection], T]) -> T:
        for left in reversed(range(TRIES_MAX)):
            connection = self.check()
            try:
                return work(connection)
            except DBAPIError as error:
                gone = is_lost(error) or connection.invalidated
                if gone:
                    self._drop()
                if left == 0 or not (gone or is_collision(error)):
                    raise
        raise AssertionError("the last try returns or raises")

    def check(self) -> Connection:
        """The connection; a new one if it was lost. Unavailable, StorePoisoned."""
        if self._connection is not None and not self._connection.invalidated:
            return self._connection
        self._drop()
        try:
            return self._connect()
        except Occupied as error:
            raise Overtaken(error.detail) from error
        except BadConfig as error:
            raise StorePoisoned(error.detail) from error

    def close(self) -> None:
        """May be called twice."""
        self._drop()
        self._engine.dispose()

    def _once(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        transaction = connection.begin()
        stamp = ""
        try:
            result = work(connection)
            self._changes += 1
            stamp = f"{self._name}.{self._changes}"
            written = finish(connection, _FENCED, {"old": self._stamp, "new": stamp})
        except BaseException as error:
            with contextlib.suppress(DBAPIError):  # it is undone by the server, too, when the connection is gone
                transaction.rollback()
            if isinstance(error, DBAPIError) and is_fence(error):
                raise Overtaken(OVERTAKEN) from error
            if stamp and isinstance(error, DBAPIError) and not is_answer(error):
                self._drop()
                self._lost = AnswerLost(self, stamp, result)
                raise self._lost from error
            raise
        transaction.commit()  # for SQLAlchemy: the server has done it
        if written:
            self._stamp = stamp
        return result

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.invalidate()
            with contextlib.suppress(DBAPIError):
                connection.close()

    def _connect(self) -> Connection:
        try:
            connection = self._connection = self._engine.connect()
        except DBAPIError as error:
            raise self._away(error) from error
        try:
            with connection.begin():
                self._take(connection)
                if self._opened:
                    self._compare(connection)
        except BaseException as error:
            if isinstance(error, Occupied) and not self._opened:
                self._end_hung(connection)
            self._drop()
            if isinstance(error, DBAPIError) and is_lost(error):
                raise self._away(error) from error
            raise
        return connection

    def _end_hung(self, connection: Connection) -> None:
        """Ends the session of a coordinator that holds the lock and does nothing any more, not even say so."""
        with contextlib.suppress(DBAPIError), connection.begin():
            if connection.execute(_END_HUNG, {"key": LOCK_KEY, "alive": ALIVE, "hung": HUNG_S}).all():
                _log.warning("hung_coordinator_ended", silent_s=HUNG_S)

    def _away(self, error: DBAPIError) -> Unavailable:
        """What the driver says names hosts and paths: for who starts the coordinator and its log, not for members."""
        if not self._opened:
            return Unavailable(f"the coordinator's database cannot be reached: {words(error)}")
        _log.warning("database_away", error=words(error))
        return Unavailable("the coordinator's database cannot be reached now; its log says why")

    def _take(self, connection: Connection) -> None:
        """Makes the database this session's alone."""
        _fit(connection)
        connection.execute(_NOTICE)
        if self._backend is not None:  # its process may still wait for a client that has lost it
            connection.execute(_END_SESSION, {"pid": self._backend.pid, "start": self._backend.backend_start})
        _lock(connection)
        self._backend = connection.execute(_SESSION).one()

    def _compare(self, connection: Connection) -> None:
        """Does the database stand where it was left? StorePoisoned if not."""
        found, lost = connection.execute(_STAMP).scalar_one_or_none() or "", self._lost
        if lost is not None:
            lost.committed = found == lost.stamp
        if found not in (self._stamp, lost and lost.stamp):
            raise Overtaken(OVERTAKEN)
        if lost is not None and lost.committed and lost.abandoned:
            raise StorePoisoned(TOO_LATE)
        self._stamp, self._lost = found, None


def _fit(connection: Connection) -> None:
    """BadConfig or Unavailable unless this server keeps what it acknowledges."""
    version, fsync, synchronous, standby = connection.execute(_SETTINGS).one()
    if version < SERVER_VERSION_MIN:
        raise BadConfig(f"PostgreSQL {SERVER_VERSION_MIN // 10000} or newer is needed")
    if fsync != "on" or synchronous == "off":
        raise BadConfig(
            f"the PostgreSQL loses what it acknowledged (fsync {fsync}, synchronous_commit {synchronous}): "
            "set both to on in postgresql.conf, and see that no ALTER ROLE or ALTER DATABASE sets them otherwise"
        )
    if standby:
        raise Unavailable("the PostgreSQL is a standby, which takes no changes: name its primary")


def _lock(connection: Connection) -> None:
    """Holds the database until the connection ends; Occupied if another has it."""
    connection.execute(_LOCK_WAIT)
    try:
        connection.execute(_LOCK, {"key": LOCK_KEY})
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        raise Occupied("another coordinator works on this database: stop it, or use another one") from error


def claim(connection: Connection) -> None:
    """In a transaction that has begun: nobody else works on the database until the connection ends.

    Occupied if a coordinator does; BadConfig, Unavailable if the server is not fit for one.
    """
    _fit(connection)
    _lock(connection)


def show_alive(connection: Connection) -> None:
    """Whoever waits for the lock sees that this session's coordinator works; from the first time on it must go on."""
    connection.execute(_ALIVE, {"alive": ALIVE})


def look(url: str) -> Any:
    """The row coordinator, name, urls of the network in the database at ``url``, None if there is none; takes no lock.

    BadConfig, Unavailable if nobody answers. Blocks.
    """
    engine = postgresql_engine(url)
    try:
        with engine.connect() as connection:
            if connection.execute(text("SELECT to_regclass('meta')")).scalar_one() is None:
                return None
            return connection.execute(_NETWORK).first()
    except DBAPIError as error:
        if is_lost(error):
            raise Unavailable(f"the coordinator's database cannot be reached: {words(error)}") from error
        raise BadConfig(f"the PostgreSQL cannot be used as the coordinator's database: {words(error)}") from error
    finally:
        engine.dispose()
