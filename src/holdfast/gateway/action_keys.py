"""Plain keys of a build cache: key -> digest of the blob that holds the value. A cache: what is lost is built again.

One SQLite file; not synced at each change, so a power cut may lose the newest keys, and one that cannot be read is
begun anew.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

from holdfast import logs
from holdfast.blob import Digest
from holdfast.errors import HoldfastError, Unavailable
from holdfast.files import Files
from holdfast.pool import Pool

KEYS_MAX = 1_000_000
"""Keys that are kept; of more, those go that were written first."""
FILE_NAME = "build-keys.db"

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS keys (
  number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, digest BLOB NOT NULL
) STRICT;
"""

_log = logs.get_logger(__name__)


class ActionKeys:
    """Use from one event loop; any number of calls at once. ``open`` first."""

    def __init__(self, directory: Path, *, files: Files, pool: Pool, limit: int = KEYS_MAX) -> None:
        """``pool`` has one thread and serves nothing else; it stays the caller's."""
        self._path = directory / FILE_NAME
        self._files = files
        self._pool = pool
        self._limit = limit
        self._database: apsw.Connection | None = None

    async def open(self) -> None:
        """Makes it if there is none. Unavailable if the directory refuses."""
        await self._pool.run(self._open)

    async def find(self, key: str) -> Digest | None:
        return await self._pool.run(self._find, key)

    async def put(self, key: str, digest: Digest) -> None:
        """Replaces what the key stood for."""
        await self._pool.run(self._put, key, digest)

    async def remove(self, key: str, digest: Digest | None = None) -> bool:
        """False if there is none; with ``digest`` only if the key still stands for it."""
        return await self._pool.run(self._remove, key, digest)

    async def close(self) -> None:
        """May be called twice."""
        await self._pool.run(self._close)

    # -- in the pool

    def _open(self) -> None:
        try:
            self._database = self._opened()
        except apsw.Error as error:
            _log.warning("build_keys_begun_anew", reason=str(error))
            for suffix in ("", "-wal", "-shm"):
                self._files.unlink(self._path.with_name(self._path.name + suffix))
            try:
                self._database = self._opened()
            except apsw.Error as again:
                raise Unavailable(f"{self._path} cannot be opened: {again}") from again

    def _opened(self) -> apsw.Connection:
        if self._files.size(self._path) is None:
            self._files.close(self._files.create(self._path))
        database = apsw.Connection(str(self._path))
        try:
            database.execute(_SCHEMA).fetchall()  # a statement that gives a row would end the rest
        except BaseException:
            database.close()
            raise
        return database

    def _ask(self, text: str, values: tuple[object, ...]) -> list[tuple[apsw.SQLiteValue, ...]]:
        if self._database is None:
            raise Unavailable("the build cache is closed")
        try:
            return list(self._database.execute(text, values))
        except apsw.Error as error:
            raise Unavailable(f"the build cache's keys fail: {error}") from error

    def _find(self, key: str) -> Digest | None:
        rows = self._ask("SELECT digest FROM keys WHERE key = ?", (key,))
        return Digest(rows[0][0]) if rows and isinstance(rows[0][0], bytes) else None

    def _put(self, key: str, digest: Digest) -> None:
        self._ask("INSERT OR REPLACE INTO keys (key, digest) VALUES (?, ?)", (key, bytes(digest)))
        self._ask("DELETE FROM keys WHERE number <= (SELECT max(number) FROM keys) - ?", (self._limit,))

    def _remove(self, key: str, digest: Digest | None) -> bool:
        if digest is None:
            return bool(self._ask("DELETE FROM keys WHERE key = ? RETURNING 1", (key,)))
        return bool(self._ask("DELETE FROM keys WHERE key = ? AND digest = ? RETURNING 1", (key, bytes(digest))))

    def _close(self) -> None:
        if self._database is not None:
            database, self._database = self._database, None
            with contextlib.suppress(apsw.Error, HoldfastError):
                database.close()
