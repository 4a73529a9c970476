"""``ledger.db`` and the file ``sequence``: opened, written, read, closed. All of it blocks.

What changes the file runs in the ledger's writer thread, or in one that has just made a blob durable and finds nobody
writing; questions run in the reader's. Write sequences rise over the life of a store and are never used twice, also
when the ledger is lost or an old one is put back: each start, and each full block, first reserves the next block
durably in a file of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from holdfast import logs
from holdfast.blob import Digest
from holdfast.errors import BadConfig, HoldfastError, NoSpace, StorePoisoned, Unavailable
from holdfast.files import Files, read_file, write_file
from holdfast.inventory import PREFIXES
from holdfast.node.ledger.rows import COLUMNS, Change, Entry, Kept, applied, bytes_of, entry_of, int_of, span_of, values
from holdfast.node.ledger.totals import Totals
from holdfast.stores.ballast import Ballast
from holdfast.stores.disk.health import FULL

SCHEMA_VERSION = 1
SEQUENCE_BLOCK = 1 << 20
COUNT_AT_START = 50_000
"""Rows that a start after an unclean stop counts before it serves; the others are counted meanwhile."""

_SCHEMA = """
CREATE TABLE blobs (
  digest BLOB PRIMARY KEY,
  sequence INTEGER NOT NULL,
  size INTEGER NOT NULL,
  kept TEXT NOT NULL,
  vault BLOB,
  here INTEGER NOT NULL,
  trashed INTEGER,
  scrubbed INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX blobs_by_sequence ON blobs (sequence);
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS blobs_shared ON blobs (kept, sequence) WHERE here = 1 AND kept IN ('manifest', 'cache');
CREATE INDEX IF NOT EXISTS blobs_reflog ON blobs (sequence) WHERE here = 1 AND kept = 'reflog';
CREATE INDEX IF NOT EXISTS blobs_trashed ON blobs (trashed) WHERE here = 0 AND trashed IS NOT NULL;
CREATE TABLE IF NOT EXISTS totals (number INTEGER PRIMARY KEY CHECK (number = 1), saved BLOB NOT NULL) STRICT;
"""
_FULL = (apsw.FullError,)
_BROKEN = (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.CantOpenError)

_log = logs.get_logger(__name__)


class Written(NamedTuple):
    """Transaction ``number`` since the start (from 1); of each change the row before, the row after, and whether
    ``totals`` change with it."""

    number: int
    rows: list[tuple[Entry | None, Entry | None, bool]]


class LedgerFile:
    """``start`` first; ``write``, ``count`` and ``stop`` in one thread, ``start_reading`` and questions in another.
    ``write_if_free`` in any."""

    def __init__(self, path: Path, files: Files, ballast_bytes: int = 0) -> None:
        self.path = path
        self._ballast = Ballast(files, path.with_name("ledger.ballast"), ballast_bytes)
        self.totals = Totals()
        """As they were at the start; kept up to date by the owner."""
        self.sequence = 0
        self.clean = False
        self.broken: str | None = None
        self.reading: apsw.Connection
        self._files = files
        self._writing: apsw.Connection
        self._counted = 0
        """The first bytes below this one are counted: in ``totals``, or on the way there."""
        self._next = 0
        self._limit = 0
        self._number = 0
        self._turn = threading.Lock()
        """Of whoever uses the connection that writes."""
        self._stopped = False

    # -- start and end

    def start(self) -> None:
        """Opens or makes the file; one that is no ledger any more is set aside. BadConfig."""
        try:
            self._ballast.start()
            if not self._try_start():
                self._set_aside()
                if not self._try_start():
                    raise BadConfig(f"{self.path}: a new ledger cannot be read back; look at the disk")
        except apsw.Error as error:
            raise BadConfig(f"{self.path} cannot be opened: {error}") from error
        except OSError as error:
            raise BadConfig(f"{self.path} cannot be opened: {error.strerror or error}") from error

    def _try_start(self) -> bool:
        """False if there is a file that is no ledger any more."""
        if self._files.size(self.path) is None:
            self._files.close(self._files.create(self.path))
            self._files.sync_directory(self.path.parent)
        self._writing = apsw.Connection(str(self.path))
        try:
            connection = self._writing
            connection.set_busy_timeout(5_000)
            # However this process ends, what a failed sync left in doubt is not synced again.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -8192"
            ).fetchall()
            version = _number(connection, "PRAGMA user_version")
            if version > SCHEMA_VERSION:
                raise BadConfig(f"{self.path} was written by a newer holdfast (version {version})")
            with connection:
                if version == 0:
                    connection.execute(_SCHEMA + f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute(_INDEXES)
                self.clean = _number(connection, "SELECT max(value) FROM facts WHERE name = 'clean'") == 1
                saved = connection.execute("SELECT saved FROM totals").fetchone()
                connection.execute("INSERT OR REPLACE INTO facts VALUES ('clean', 0); DELETE FROM totals")
            self._start_counting(None if saved is None or not self.clean else bytes_of(saved[0]))
            self.sequence = _number(connection, "SELECT max(sequence) FROM blobs")
        except (apsw.CorruptError, apsw.NotADBError) as error:
            _log.error("ledger_broken", path=str(self.path), error=str(error))
            self._writing.close()
            self.totals, self.sequence, self.clean, self._counted = Totals(), 0, False, 0
            return False
        self._next = self.sequence + 1
        self._limit = 0
        self._reserve()
        return True

    def _set_aside(self) -> None:
        """Keeps a broken ledger under another name, for whoever wants to look."""
        self._files.rename(self.path, self.path.with_suffix(".broken"))
        for suffix in ("-wal", "-shm"):
            self._files.unlink(self.path.with_name(self.path.name + suffix))
        self._files.sync_directory(self.path.parent)

    def start_reading(self) -> None:
        self.reading = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        self.reading.set_busy_timeout(5_000)

    def stop(self, clean: bool) -> None:
        """Closes the file; with ``clean``, marks that store and ledger agree."""
        with self._turn:
            self._stopped = True
            with contextlib.suppress(apsw.Error):
                if clean and self.broken is None:
                    with self._writing:
                        self._writing.execute("INSERT OR REPLACE INTO facts VALUES ('clean', 1)")
                        if self.all_counted:
                            sums = self.totals.encode()
                            self._writing.execute("INSERT OR REPLACE INTO totals VALUES (1, ?)", (sums,))
                if self.broken is None:
                    self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    self._writing.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            self._writing.close()

    # -- totals

    @property
    def all_counted(self) -> bool:
        return self._counted == PREFIXES

    def _start_counting(self, saved: bytes | None) -> None:
        """From what a clean stop left, else the first rows now and the rest by ``count``."""
        self.totals, self._counted = Totals(), 0
        if saved is not None:
            try:
                self.totals, self._counted = Totals.decode(saved), PREFIXES
            except ValueError as error:
                _log.warning("ledger_totals_lost", reason=str(error))
        seen = 0
        while not self.all_counted and seen < COUNT_AT_START:
            rows = self.count()
            for digest, size, kept in rows:
                self.totals.add(digest, size, kept)
            seen += len(rows)

    def count(self) -> list[tuple[Digest, int, Kept]]:
        """What is here under the next first byte. The caller adds it to ``totals``: changes of it count from now on."""
        low, high = span_of(bytes([self._counted]))
        question = "SELECT digest, size, kept FROM blobs WHERE digest >= ? AND digest <= ? AND here = 1"
        rows = [
            (Digest(bytes_of(digest)), int_of(size), kept)
            for digest, size, kept in self._writing.execute(question, (low, high))
        ]
        self._counted += 1
        return rows

    # -- changes and questions

    def write(self, group: Sequence[Change]) -> Written:
        """One transaction. StorePoisoned, NoSpace, Unavailable; after a broken disk nothing is written any more."""
        with self._turn:
            return self._written(group)

    def write_if_free(self, change: Change) -> Written | None:
        """As ``write``, in any thread; None, and nothing is done, while another one writes."""
        if not self._turn.acquire(blocking=False):
            return None
        try:
            return self._written([change])
        finally:
            self._turn.release()

    def _written(self, group: Sequence[Change]) -> Written:
        if self._stopped:
            raise Unavailable("the ledger is closed")
        if self.broken is not None:
            raise StorePoisoned(self.broken)
        try:
            try:
                rows = self._write(group)
            except apsw.FullError:
                removes = any(change.here is False for change in group)
                if not removes or not self._make_room():
                    raise
                rows = self._write(group)
            self._ballast.restore()
        except (apsw.Error, OSError) as error:
            raise self._translated(error) from error
        self._number += 1
        return Written(self._number, rows)

    def _make_room(self) -> bool:
        """For rows that say that something goes. What is in the log moves to the file, so that the log begins anew."""
        given_up = self._ballast.give_up()
        with contextlib.suppress(apsw.FullError, apsw.BusyError):
            _, pages, moved = self._writing.execute("PRAGMA wal_checkpoint(RESTART)").fetchone() or (0, 0, 0)
            return given_up or (int_of(pages) > 0 and pages == moved)
        return given_up

    def _write(self, group: Sequence[Change]) -> list[tuple[Entry | None, Entry | None, bool]]:
        written = []
        with self._writing:
            for change in group:
                before = self._row(self._writing, change.digest)
                after = applied(change, before, self._take_sequence)
                if after is not None and after != before:
                    self._writing.execute(
                        f"INSERT OR REPLACE INTO blobs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                        values(after),
                    )
                written.append((before, after, change.digest[0] < self._counted))
        return written

    def find(self, digest: Digest) -> Entry | None:
        """In the reader's thread."""
        return self._row(self.reading, digest)

    def select(self, condition: str, arguments: Sequence[apsw.SQLiteValue]) -> list[Entry]:
        """In the reader's thread: the rows that meet a condition of ours."""
        found = self.reading.execute(f"SELECT {COLUMNS} FROM blobs WHERE {condition}", arguments)  # noqa: S608
        return [entry_of(row) for row in found]

    def _row(self, connection: apsw.Connection, digest: Digest) -> Entry | None:
        row = connection.execute(f"SELECT {COLUMNS} FROM blobs WHERE digest = ?", (digest,)).fetchone()  # noqa: S608
        return None if row is None else entry_of(row)

    # -- sequences

    def _take_sequence(self) -> int:
        if self._next >= self._limit:
            self._reserve()
        self._next += 1
        return self._next - 1

    def _reserve(self) -> None:
        """The next block of sequences is ours, durably, before one of them is used."""
        path = self.path.with_name("sequence")
        data = read_file(self._files, path, 32)
        if data is not None and not data.strip().isdigit():
            raise BadConfig(f"{path} is damaged: it should hold one number")
        first = max(self._next, int(data) if data else 1, self._limit)
        write_file(self._files, path, f"{first + SEQUENCE_BLOCK}\n".encode())
        self._next, self._limit = first, first + SEQUENCE_BLOCK

    # -- errors

    def _translated(self, error: apsw.Error | OSError) -> HoldfastError:
        """What a failed write means; a broken disk ends all writing."""
        if isinstance(error, _FULL) or (isinstance(error, OSError) and error.errno in FULL):
            return NoSpace("the disk of the ledger is full")
        if isinstance(error, (*_BROKEN, OSError)):
            if self.broken is None:
                self.broken = f"the ledger cannot be written ({error}); look at the disk, then restart"
                _log.error("ledger_poisoned", error=str(error))
            return StorePoisoned(self.broken)
        return Unavailable(f"the ledger cannot be written now: {error}")


def _number(connection: apsw.Connection, question: str) -> int:
    row = connection.execute(question).fetchone()
    return 0 if row is None or row[0] is None else int_of(row[0])
