"""``queue.db``: one SQLite file that several processes may have open, its key and its transactions (docs/formats.md).

Everything here blocks and runs in the queue's one thread. Writes happen inside ``change``: one immediate transaction
with synchronous FULL. The tables have a module each: ``entries``, ``order``, ``claims`` and ``packs``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import apsw

from holdfast.clock import Randomness
from holdfast.errors import BadConfig, Corrupt
from holdfast.files import Files
from holdfast.outbox.queue import sealing
from holdfast.outbox.queue.claims import Claims
from holdfast.outbox.queue.entries import Entries
from holdfast.outbox.queue.errors import as_bytes, translated
from holdfast.outbox.queue.order import Order
from holdfast.outbox.queue.packs import Packs
from holdfast.outbox.queue.schema import COUNTS, FROM_1, MAGIC, TABLES, VERSION
from holdfast.outbox.queue.sealing import Seals

BUSY_MS = 10_000
CACHE_KIB = 8 << 10
LOG_PAGES = 4000
"""So many in the log (16 MiB) before they are brought to the database: each time costs two syncs more."""

T = TypeVar("T")


class QueueFile:
    """The database. Use from one thread at a time."""

    def __init__(self, path: Path, files: Files, seed: bytes, randomness: Randomness) -> None:
        """Opens or makes it. Denied for another ``seed``, Corrupt or BadConfig for a file that is none."""
        self.path = path
        with translated(path):
            if files.size(path) is None:
                with contextlib.suppress(FileExistsError):
                    files.close(files.create(path))  # made here so that its mode is 0600
                files.sync_directory(path.parent)
            self._db = apsw.Connection(os.fspath(path))
            self._durable = _Transaction(self._db, path)
            try:
                self._prepare()
                with self.change():
                    self._begin_new(seed, randomness)
                self.seals = self._unsealed(seed, randomness)
                self.order, self.claims, self.packs = Order(self._db), Claims(self._db), Packs(self._db)
                self.entries = Entries(self._db, self.order, self.packs)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.set_busy_timeout(BUSY_MS)
        self._db.pragma("journal_mode", "wal")
        self._db.pragma("synchronous", "full")
        self._db.pragma("cache_size", -CACHE_KIB)
        self._db.pragma("wal_autocheckpoint", LOG_PAGES)
        self._db.pragma("temp_store", 2)

    def _begin_new(self, seed: bytes, randomness: Randomness) -> None:
        magic, version = self._db.pragma("application_id"), self._db.pragma("user_version")
        if (magic, version) == (0, 0) and not self._db.execute("SELECT 1 FROM sqlite_schema").fetchall():
            self._db.execute(TABLES + COUNTS)
            self._db.execute(
                "INSERT INTO wrap VALUES (1, ?, ?)",
                sealing.wrap(randomness.bytes(sealing.KEY_BYTES), seed, randomness),
            )
            self._db.pragma("application_id", MAGIC)
            self._db.pragma("user_version", VERSION)
        elif magic != MAGIC:
            raise BadConfig(f"{self.path} is not an outbox; nothing in it was changed")
        elif version == 1:
            self._db.execute(FROM_1)
            self._db.pragma("user_version", VERSION)
        elif version != VERSION:
            raise BadConfig(f"{self.path} was written by another holdfast (version {version}, not {VERSION})")

    def _unsealed(self, seed: bytes, randomness: Randomness) -> Seals:
        found = self._db.execute("SELECT salt, wrapped FROM wrap").fetchone()
        if found is None:
            raise Corrupt(f"{self.path} has lost the record of its key; nothing in it was changed or deleted")
        return Seals(sealing.unwrap(found[0], found[1], seed, str(self.path.parent)), randomness)

    def rewrap(self, old: bytes, new: bytes, randomness: Randomness) -> None:
        """The device has another key now. Denied if ``old`` is not the one it had; inside ``change``."""
        ((salt, wrapped),) = self._db.execute("SELECT salt, wrapped FROM wrap").fetchall()
        key = sealing.unwrap(as_bytes(salt), as_bytes(wrapped), old, str(self.path.parent))
        self._db.execute("UPDATE wrap SET salt = ?, wrapped = ?", sealing.wrap(key, new, randomness))

    def asked(self, question: Callable[[], T]) -> T:
        """``question()`` with the database's errors as ours."""
        with translated(self.path):
            return question()

    def close(self) -> None:
        """May be called twice."""
        self._db.close()

    # --- writing ------------------------------------------------------------------------------------------------------

    def change(self, *, durable: bool = True) -> AbstractContextManager[None]:
        """One transaction. ``durable`` False: may be lost in a power cut, not in a crash; for claims."""
        return self._durable if durable else self._undurable()

    @contextlib.contextmanager
    def _undurable(self) -> Iterator[None]:
        with translated(self.path):
            self._db.pragma("synchronous", "normal")
            try:
                with self._durable:
                    yield
            finally:
                self._db.pragma("synchronous", "full")

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Inside ``change``: what is done here is undone if it raises."""
        self._db.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if not self._db.get_autocommit():  # some errors end the whole transaction
                self._db.execute("ROLLBACK TO part; RELEASE part")
            raise
        self._db.execute("RELEASE part")

    def ended(self) -> bool:
        """Did an error end the transaction?"""
        return self._db.get_autocommit()


class _Transaction(translated):
    """What is done inside is committed, or undone if it raises. Used again and again: a generator cost more."""

    def __init__(self, db: apsw.Connection, path: Path) -> None:
        super().__init__(path)
        self._db = db

    def __enter__(self) -> None:
        with translated(self._path):
            self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                with translated(self._path):
                    self._db.execute("COMMIT")
        finally:
            if not self._db.get_autocommit():
                self._db.execute("ROLLBACK")
        super().__exit__(kind, error, trace)
