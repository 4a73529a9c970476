"""What a node keeps and why: one row for each blob, in ``ledger.db`` beside the store (docs/formats.md, Files on disk).

A row is written after its blob is durable and says "not here" before or as its blob goes, so the ledger may claim too
little and never too much; ``reconcile`` finds what it missed. Rows that arrive together share one transaction and one
sync; alone, nobody waits for company.

Write sequences rise over the life of a store and are never used twice, also when the ledger is lost or an old one is
put back: each start, and each full block, first reserves the next block durably in a file of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import apsw

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.errors import BadConfig, NoSpace, StorePoisoned, Unavailable
from holdfast.files import Files, read_file, write_file
from holdfast.inventory import Roots, inner_roots
from holdfast.pool import Pool

Kept: TypeAlias = Literal["vault", "manifest", "cache", "reflog", "unknown"]
"""Why a blob is kept. ``unknown``: found in the store without a row and no pack; kept until somebody says why."""

SHARED: frozenset[Kept] = frozenset({"manifest", "cache"})
"""Kept for the exchange between nodes: no vault owns them, so they are in no inventory and under no root."""
_WORTH: dict[Kept, int] = {"unknown": 0, "cache": 1, "manifest": 2, "reflog": 3, "vault": 3}
"""A blob that is kept for two reasons is kept for the weightier one."""

SCHEMA_VERSION = 1
SEQUENCE_BLOCK = 1 << 20
CACHE_ENTRIES_MAX = 32_768
GROUP_MAX = 512
"""Changes in one transaction: more than ever wait in practice, and few enough for a short one."""

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
"""
_ROOTED = "here = 1 AND kept NOT IN ('manifest', 'cache')"
_COLUMNS = "digest, sequence, size, kept, vault, here, trashed, scrubbed"
_FULL = (apsw.FullError,)
_BROKEN = (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.CantOpenError)

_log = logs.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. ``trashed``, ``scrubbed``: seconds on the slow clock, None if never. ``size``: bytes."""

    digest: Digest
    sequence: int
    size: int
    kept: Kept
    vault: Id | None
    here: bool
    trashed: int | None = None
    scrubbed: int | None = None


class _Change(NamedTuple):
    """A row to be, in the order of arrival; ``here`` None leaves all but ``scrubbed`` as it is."""

    digest: Digest
    size: int
    kept: Kept
    vault: Id | None
    here: bool | None
    moment: int | None
    done: asyncio.Future[Entry | None]
    release: bool = False


class Ledger:
    """Use from one event loop; any number of calls at once. Make one with ``open``."""

    def __init__(
        self,
        path: Path,
        *,
        files: Files,
        writer: Pool,
        reader: Pool,
    ) -> None:
        """For ``open`` only."""
        self.path = path
        self.roots = Roots()
        self.sequence = 0
        """The highest sequence in a durable row."""
        self.held_bytes = 0
        """Bytes of the blobs that are here."""
        self.shared: dict[Kept, tuple[int, int]] = {}
        """How many blobs are here for manifests and in the cache, and their bytes."""
        self.clean = False
        """Whether the last stop was clean, so that store and ledger agree."""
        self.broken: str | None = None
        """Why nothing more can be written, None while it can."""
        self._files = files
        self._writer = writer
        self._reader = reader
        self._writing: apsw.Connection
        self._reading: apsw.Connection
        self._next = 0
        self._limit = 0
        self._cache: OrderedDict[Digest, Entry] = OrderedDict()
        self._commits = 0
        self._waiting: list[_Change] = []
        self._flush: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, directory: Path, *, files: Files, writer: Pool, reader: Pool) -> Ledger:
        """The ledger in ``directory``, made if there is none; one that cannot be read is set aside and begun anew.

        ``writer`` and ``reader`` have one thread each and serve nothing else; they stay the caller's. BadConfig if it
        was written by a newer holdfast or the directory refuses.
        """
        ledger = cls(directory / "ledger.db", files=files, writer=writer, reader=reader)
        await ledger.start()
        return ledger

    async def start(self) -> None:
        """Reads or makes the file; ``open`` has done that already."""
        await self._writer.run(self._start)
        await self._reader.run(self._start_reading)

    # -- changes

    async def record(self, digest: Digest, size: int, vault: Id | None, kept: Kept = "vault") -> int:
        """The blob is here, durably in the store; returns its new write sequence once the row is durable, too."""
        entry = await self._change(digest, size, kept, vault, True, None)
        assert entry is not None, "a recorded blob has a row"
        return entry.sequence

    async def release(self, digest: Digest, size: int) -> None:
        """No manifest names this blob any more: it is a part of the cache, unless a vault keeps it."""
        await self._change(digest, size, "cache", None, True, None, release=True)

    async def remove(self, digest: Digest, *, trashed: float | None = None) -> Entry | None:
        """The blob is not here any more, or is about to go; its small row gets a new sequence. None if it has no row.

        ``trashed``: since when it lies in trash.
        """
        return await self._change(digest, 0, "unknown", None, False, None if trashed is None else int(trashed))

    async def scrubbed(self, digest: Digest, moment: float) -> None:
        """The blob was re-read and right; no new sequence."""
        await self._change(digest, 0, "unknown", None, None, int(moment))

    async def _change(
        self,
        digest: Digest,
        size: int,
        kept: Kept,
        vault: Id | None,
        here: bool | None,
        moment: int | None,
        *,
        release: bool = False,
    ) -> Entry | None:
        self._check()
        done: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Change(digest, size, kept, vault, here, moment, done, release))
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._flush_all(), name="ledger")
        return await done

    async def _flush_all(self) -> None:
        """Writes what waits, group after group; whoever comes during a sync is in the next group."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                try:
                    written = await self._writer.run(self._write, group)
                except Exception as error:
                    for change in group:
                        if not change.done.done():
                            change.done.set_exception(self._translated(error))
                else:
                    self._adopt(group, written)
        finally:
            self._flush = None

    def _write(self, group: list[_Change]) -> list[tuple[Entry | None, Entry | None]]:
        """In the writer's thread: one transaction; (row before, row after) of each change."""
        if self.broken is not None:
            raise StorePoisoned(self.broken)
        written = []
        with self._writing:
            for change in group:
                before = self._row(self._writing, change.digest)
                after = self._applied(change, before)
                if after is not None and after != before:
                    self._writing.execute(
                        f"INSERT OR REPLACE INTO blobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                        (
                            after.digest, after.sequence, after.size, after.kept, after.vault, int(after.here),
                            after.trashed, after.scrubbed,
                        ),
                    )  # fmt: skip
                written.append((before, after))
        return written

    def _applied(self, change: _Change, before: Entry | None) -> Entry | None:
        if change.here is None:
            if before is None or not before.here:
                return before
            return _with(before, scrubbed=change.moment)
        if change.here:
            kept, vault = change.kept, change.vault
            if before is not None and before.here and _WORTH[before.kept] > _WORTH[kept]:
                if not change.release or before.kept != "manifest":
                    kept, vault = before.kept, before.vault  # above all, what a vault keeps stays the vault's
            elif change.release:
                return before
            return Entry(change.digest, self._take_sequence(), change.size, kept, vault, True)
        if before is None:
            return None
        if not before.here and before.trashed == change.moment:
            return before
        return _with(before, sequence=self._take_sequence(), here=False, trashed=change.moment)

    def _adopt(self, group: list[_Change], written: list[tuple[Entry | None, Entry | None]]) -> None:
        """Back in the event loop: what is durable now shows."""
        self._commits += 1
        for change, (before, after) in zip(group, written, strict=True):
            was, is_ = before is not None and before.here, after is not None and after.here
            rooted, roots = was and not _is_shared(before), is_ and not _is_shared(after)
            if rooted and not roots:
                self.roots.remove(change.digest)
            elif roots and not rooted:
                self.roots.add(change.digest)
            if before is not None and was and before.kept in SHARED:
                self._tally(before.kept, -1, -before.size)
            if after is not None and is_ and after.kept in SHARED:
                self._tally(after.kept, 1, after.size)
            self.held_bytes += (after.size if after and is_ else 0) - (before.size if before and was else 0)
            if after is not None:
                self.sequence = max(self.sequence, after.sequence)
                self._remember(after)
            if not change.done.done():
                change.done.set_result(after)

    def _tally(self, kept: Kept, count: int, size: int) -> None:
        blobs, stored = self.shared.get(kept, (0, 0))
        self.shared[kept] = (blobs + count, stored + size)

    # -- questions

    async def find(self, digest: Digest) -> Entry | None:
        """The row of a blob, also of one that is no longer here; None if there is none."""
        self._check_open()
        found = self._cache.get(digest)
        if found is not None:
            self._cache.move_to_end(digest)
            return found
        commits = self._commits
        entry = await self._ask(lambda: self._row(self._reading, digest))
        newer = self._cache.get(digest)
        if newer is not None:
            return newer
        if entry is not None and commits == self._commits:
            self._remember(entry)
        return entry

    async def find_all(self, digests: Iterable[Digest]) -> dict[Digest, Entry]:
        """The rows of many blobs; those without one are left out."""
        self._check_open()
        found, missing = {}, []
        for digest in dict.fromkeys(digests):
            entry = self._cache.get(digest)
            if entry is None:
                missing.append(digest)
            else:
                found[digest] = entry
        if missing:

            def look() -> list[Entry | None]:
                return [self._row(self._reading, digest) for digest in missing]

            found |= {entry.digest: entry for entry in await self._ask(look) if entry is not None}
        return found

    async def changes(self, after: int, limit: int) -> list[Entry]:
        """Rows with a sequence above ``after``, ascending, also of blobs that are gone: the inventory read onwards."""
        return await self._select("sequence > ? ORDER BY sequence LIMIT ?", (after, limit))

    async def under(self, prefixes: Sequence[bytes], past: Digest | None, limit: int) -> list[Entry]:
        """What is here for vaults under ``prefixes`` (ascending, none inside another), ascending by digest."""
        self._check_open()

        def rows() -> list[Entry]:
            found: list[Entry] = []
            for prefix in prefixes:
                low, high = _span_of(prefix)
                if past is not None and high <= past:
                    continue
                found += map(
                    _entry,
                    self._reading.execute(
                        f"SELECT {_COLUMNS} FROM blobs WHERE digest >= ? AND digest <= ? AND digest > ? "  # noqa: S608
                        f"AND {_ROOTED} ORDER BY digest LIMIT ?",
                        (low, high, past or b"", limit - len(found)),
                    ),
                )
                if len(found) >= limit:
                    break
            return found

        return await self._ask(rows)

    async def inner_roots(self, prefix: int) -> bytes:
        """``inventory.inner_roots`` of what is here for vaults under the first byte ``prefix``."""
        self._check_open()

        def roots() -> bytes:
            question = f"SELECT digest FROM blobs WHERE digest >= ? AND digest <= ? AND {_ROOTED}"  # noqa: S608
            found = self._reading.execute(question, _span_of(bytes([prefix])))
            return inner_roots(Digest(_bytes(digest)) for (digest,) in found)

        return await self._ask(roots)

    async def kept_for(self, kept: Kept, after: int, limit: int) -> list[Entry]:
        """What is here for manifests, or in the cache: the oldest first, above sequence ``after``."""
        return await self._select(
            "kept = ? AND kept IN ('manifest', 'cache') AND here = 1 AND sequence > ? ORDER BY sequence LIMIT ?",
            (kept, after, limit),
        )

    async def trashed(self, before: float, limit: int) -> list[Entry]:
        """What lies in trash since before that second of the slow clock, the oldest first. Looks at every row."""
        return await self._select(
            "here = 0 AND trashed IS NOT NULL AND trashed < ? ORDER BY trashed LIMIT ?", (int(before), limit)
        )

    async def span(self, after: Digest | None, last: Digest | None) -> list[Entry]:
        """Blobs here with ``after`` < digest <= ``last``, ascending; None is the end on that side."""
        return await self._select(
            "digest > ? AND digest <= ? AND here = 1 ORDER BY digest", (after or b"", last or b"\xff" * DIGEST_BYTES)
        )

    async def close(self, *, clean: bool = True) -> None:
        """Writes what waits; with ``clean`` marks that store and ledger agree. May be called twice."""
        if self._closed:
            return
        while self._flush is not None:
            await asyncio.wait([self._flush])
        self._closed = True
        await self._reader.run(self._reading.close)
        await self._writer.run(self._stop, clean and self.broken is None)

    async def _select(self, condition: str, values: tuple[object, ...]) -> list[Entry]:
        self._check_open()

        def rows() -> list[Entry]:
            found = self._reading.execute(f"SELECT {_COLUMNS} FROM blobs WHERE {condition}", values)  # noqa: S608
            return [_entry(row) for row in found]

        return await self._ask(rows)

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await self._reader.run(question)
        except apsw.Error as error:
            raise Unavailable(f"the ledger cannot be read: {error}") from error

    def _remember(self, entry: Entry) -> None:
        self._cache[entry.digest] = entry
        self._cache.move_to_end(entry.digest)
        if len(self._cache) > CACHE_ENTRIES_MAX:
            self._cache.popitem(last=False)

    def _row(self, connection: apsw.Connection, digest: Digest) -> Entry | None:
        row = connection.execute(f"SELECT {_COLUMNS} FROM blobs WHERE digest = ?", (digest,)).fetchone()  # noqa: S608
        return None if row is None else _entry(row)

    # -- start and end, in the writer's thread

    def _start(self) -> None:
        try:
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
                connection.execute("INSERT OR REPLACE INTO facts VALUES ('clean', 0)")
            for digest, size, kept in connection.execute("SELECT digest, size, kept FROM blobs WHERE here = 1"):
                if kept in ("manifest", "cache"):
                    self._tally(kept, 1, _int(size))
                else:
                    self.roots.add(Digest(_bytes(digest)))
                self.held_bytes += _int(size)
            self.sequence = _number(connection, "SELECT max(sequence) FROM blobs")
        except (apsw.CorruptError, apsw.NotADBError) as error:
            _log.error("ledger_broken", path=str(self.path), error=str(error))
            self._writing.close()
            self.roots, self.held_bytes, self.sequence, self.clean = Roots(), 0, 0, False
            self.shared = {}
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

    def _start_reading(self) -> None:
        self._reading = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        self._reading.set_busy_timeout(5_000)

    def _stop(self, clean: bool) -> None:
        with contextlib.suppress(apsw.Error):
            if clean:
                self._writing.execute("INSERT OR REPLACE INTO facts VALUES ('clean', 1)")
            self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writing.close()

    # -- sequences, in the writer's thread

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
        self._next = max(self._next, int(data) if data else 1, self._limit)
        self._limit = self._next + SEQUENCE_BLOCK
        write_file(self._files, path, f"{self._limit}\n".encode())

    # -- errors

    def _check(self) -> None:
        self._check_open()
        if self.broken is not None:
            raise StorePoisoned(self.broken)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the ledger is closed")

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, _FULL):
            return NoSpace("the disk of the ledger is full")
        if isinstance(error, _BROKEN) or (isinstance(error, OSError) and not isinstance(error, StorePoisoned)):
            if self.broken is None:
                self.broken = f"the ledger cannot be written ({error}); look at the disk, then restart"
                _log.error("ledger_poisoned", error=str(error))
            return StorePoisoned(self.broken)
        if isinstance(error, apsw.Error):
            return Unavailable(f"the ledger cannot be written now: {error}")
        return error


def _is_shared(entry: Entry | None) -> bool:
    return entry is not None and entry.kept in SHARED


def _with(
    entry: Entry,
    *,
    sequence: int | None = None,
    here: bool | None = None,
    trashed: int | None = None,
    scrubbed: int | None = None,
) -> Entry:
    return Entry(
        entry.digest,
        entry.sequence if sequence is None else sequence,
        entry.size,
        entry.kept,
        entry.vault,
        entry.here if here is None else here,
        trashed,
        entry.scrubbed if scrubbed is None else scrubbed,
    )


def _span_of(prefix: bytes) -> tuple[bytes, bytes]:
    """The lowest and the highest digest under ``prefix``."""
    return prefix.ljust(DIGEST_BYTES, b"\0"), prefix.ljust(DIGEST_BYTES, b"\xff")


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes), "STRICT tables keep their types"
    return value


def _int(value: object) -> int:
    assert isinstance(value, int), "STRICT tables keep their types"
    return value


def _number(connection: apsw.Connection, question: str) -> int:
    row = connection.execute(question).fetchone()
    return 0 if row is None or row[0] is None else _int(row[0])


def _entry(row: tuple[apsw.SQLiteValue, ...]) -> Entry:
    digest, sequence, size, kept, vault, here, trashed, scrubbed = row
    return Entry(
        Digest(_bytes(digest)),
        _int(sequence),
        _int(size),
        kept,  # type: ignore[arg-type]  # only ever written from a Kept
        None if vault is None else Id(_bytes(vault)),
        here == 1,
        None if trashed is None else _int(trashed),
        None if scrubbed is None else _int(scrubbed),
    )
