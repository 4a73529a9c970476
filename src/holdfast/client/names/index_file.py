"""``index.db``: what a client remembers so that it need not ask or read again. A cache: lost, it is made anew.

One SQLite file in WAL mode with synchronous NORMAL: after a power cut the last moments may be missing, nothing else. A
chunk's row takes at most 64 bytes. Everything here blocks and runs in the index's own single thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.client.device.local import FileStat
from holdfast.files import Files

MAGIC = 0x68666978  # "hfix", SQLite's application id
VERSION = 3
BUSY_MS = 5000
CACHE_KIB = 8 << 10

_log = logs.get_logger(__name__)

_TABLES = """
CREATE TABLE packs (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
    nodes BLOB NOT NULL, listed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE chunks (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    mark BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX chunks_by_pack ON chunks (pack);
CREATE TABLE contents (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, place BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE refs (tag BLOB PRIMARY KEY, parent BLOB NOT NULL, version INTEGER NOT NULL, etag BLOB NOT NULL,
    record BLOB NOT NULL, keep BLOB NOT NULL, mark BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX refs_by_parent ON refs (parent);
CREATE TABLE forks (tag BLOB NOT NULL, etag BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (tag, etag)) WITHOUT ROWID;
CREATE TABLE stats (directory BLOB NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (directory, name)) WITHOUT ROWID;
CREATE TABLE nodes (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, name TEXT NOT NULL, url TEXT NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_INDEXES = "CREATE INDEX IF NOT EXISTS contents_by_pack ON contents (pack)"
"""Later than version 3, of which files may be here."""


class ChunkPlace(NamedTuple):
    """Where a sealed chunk lies. ``mark``: the 16 bytes of BLAKE3 of the sealed chunk that recipes hold.

    Empty for a chunk that is known from its pack's index alone: who has its plaintext can tell it (``writing/put.py``).
    """

    pack: Digest
    offset: int
    length: int
    mark: bytes


class SeenRef(NamedTuple):
    """The newest record of a name that this device has seen. ``mark``: what made it, empty if not from here.

    Version 0: a directory that was made on the way, or was there already under another record.

    ``at``: seconds since 1970 when it was last known to be the present one, 0 for now.
    """

    version: int
    etag: Digest
    record: bytes
    keep: bytes
    mark: bytes
    at: float = 0.0


class ListedPack(NamedTuple):
    """A pack whose sealed index was read. ``chunks``: (id, offset, length) of all its data chunks."""

    digest: Digest
    size: int
    chunks: list[tuple[bytes, int, int]]


class NodeRow(NamedTuple):
    """A node and where it was last reached."""

    id: Id
    name: str
    url: str


class Batch:
    """Rows to be written together."""

    def __init__(self) -> None:
        self.nodes: dict[Id, NodeRow] = {}
        self.packs: dict[Digest, tuple[int, list[Id]]] = {}
        self.listed: set[Digest] = set()
        """Of the packs: those whose data chunks are all among ``chunks``."""
        self.chunks: list[tuple[bytes, ChunkPlace]] = []
        self.contents: list[tuple[bytes, Digest, bytes]] = []
        self.refs: dict[bytes, tuple[bytes, SeenRef]] = {}
        self.stats: list[tuple[bytes, bytes, FileStat]] = []

    def __len__(self) -> int:
        return len(self.packs) + len(self.chunks) + len(self.contents) + len(self.refs) + len(self.stats)

    def merge(self, other: Batch) -> None:
        """Takes over the rows of ``other``, which are newer."""
        self.nodes.update(other.nodes)
        self.packs.update(other.packs)
        self.listed |= other.listed
        self.chunks += other.chunks
        self.contents += other.contents
        self.refs.update(other.refs)
        self.stats += other.stats


class IndexFile:
    """The database. Use from one thread at a time."""

    def __init__(self, path: Path | None, files: Files) -> None:
        """Opens or makes it; a broken one is set aside. ``path`` None keeps everything in memory."""
        self._path = path
        self._files = files
        self._packs: dict[Digest, int] = {}
        self._nodes: dict[Id, int] = {}
        self.begun = 0
        """How often an error of the database made it start anew."""
        self._db = self._open()

    def close(self) -> None:
        """May be called twice."""
        self._db.close()

    def recover(self) -> None:
        """After an error of the database: sets it aside and starts anew; in memory if that fails too."""
        with contextlib.suppress(apsw.Error):
            self._db.close()
        self._set_aside()
        self.begun += 1
        self._db = self._open()

    # --- asked --------------------------------------------------------------------------------------------------------

    def chunks(self, ids: Iterable[bytes]) -> dict[bytes, ChunkPlace]:
        """The places of those that are known."""
        found = {}
        query = (
            "SELECT p.digest, c.offset, c.length, c.mark FROM chunks c JOIN packs p ON p.number = c.pack WHERE c.id = ?"
        )
        for id_ in ids:
            for digest, offset, length, mark in self._db.execute(query, (id_,)):
                found[id_] = ChunkPlace(Digest(digest), offset, length, mark)
        return found

    def contents(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """The encoded recipe places of those content ids that are known."""
        found = {}
        for id_ in ids:
            for (place,) in self._db.execute("SELECT place FROM contents WHERE id = ?", (id_,)):
                found[id_] = place
        return found

    def refs(self, tags: Iterable[bytes]) -> dict[bytes, SeenRef]:
        """The newest records seen of those names."""
        found = {}
        query = "SELECT version, etag, record, keep, mark, at FROM refs WHERE tag = ?"
        for tag in tags:
            row = self._db.execute(query, (tag,)).fetchone()
            if row is not None:
                found[tag] = SeenRef(row[0], Digest(row[1]), *row[2:])
        return found

    def refs_of(self, parent: bytes) -> dict[bytes, SeenRef]:
        """All names seen in a directory."""
        query = "SELECT tag, version, etag, record, keep, mark, at FROM refs WHERE parent = ?"
        return {row[0]: SeenRef(row[1], Digest(row[2]), *row[3:]) for row in self._db.execute(query, (parent,))}

    def marks_of(self, parent: bytes) -> dict[bytes, tuple[bytes, bytes]]:
        """tag -> (etag, mark) for a directory, without the records."""
        query = "SELECT tag, etag, mark FROM refs WHERE parent = ?"
        return {tag: (etag, mark) for tag, etag, mark in self._db.execute(query, (parent,))}

    def stats(self, directory: bytes) -> dict[bytes, FileStat]:
        """name -> stat of the files last read in a directory of this machine."""
        query = "SELECT name, size, mtime_ns, ctime_ns, inode, content FROM stats WHERE directory = ?"
        return {row[0]: FileStat(*row[1:]) for row in self._db.execute(query, (directory,))}

    def stat(self, directory: bytes, name: bytes) -> FileStat | None:
        query = "SELECT size, mtime_ns, ctime_ns, inode, content FROM stats WHERE directory = ? AND name = ?"
        row = self._db.execute(query, (directory, name)).fetchone()
        return None if row is None else FileStat(*row)

    def places(self, packs: Sequence[Digest]) -> dict[Digest, list[NodeRow]]:
        """Who held these packs when it was last heard."""
        found = {}
        for digest in packs:
            row = self._db.execute("SELECT nodes FROM packs WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                continue
            holders = []
            for at in range(0, len(row[0]), 4):
                number = int.from_bytes(row[0][at : at + 4])
                for id_, name, url in self._db.execute("SELECT id, name, url FROM nodes WHERE number = ?", (number,)):
                    holders.append(NodeRow(Id(id_), name, url))
            found[digest] = holders
        return found

    def unlisted(self, packs: Sequence[Digest]) -> list[Digest]:
        """Those of ``packs``, in their order, whose chunks are not known to be here."""
        query = "SELECT listed FROM packs WHERE digest = ?"
        return [digest for digest in packs if self._db.execute(query, (bytes(digest),)).fetchone() not in ((1,),)]

    def rebuilt(self) -> int | None:
        """None: the chunks of the vault's packs were never all listed here. Else when to look for the rest, 0 never."""
        row = self._db.execute("SELECT value FROM state WHERE name = 'rebuilt'").fetchone()
        return None if row is None else int(row[0])

    def survive(self) -> int | None:
        """The network's ``survive`` as this device heard it last."""
        row = self._db.execute("SELECT value FROM state WHERE name = 'survive'").fetchone()
        return None if row is None else int(row[0])

    # --- written ------------------------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        """All rows in one transaction. A ref never replaces one of a higher version."""
        try:
            with self._db:
                self._write(batch)
        except BaseException:
            self._packs.clear()
            self._nodes.clear()
            raise

    def _write(self, batch: Batch) -> None:
        db = self._db
        for node in batch.nodes.values():
            self._node_number(node)
        for digest, (size, holders) in batch.packs.items():
            nodes = b"".join(self._node_number(NodeRow(id_, "", "")).to_bytes(4) for id_ in holders)
            db.execute(
                "INSERT INTO packs (digest, size, nodes, listed) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE "
                "SET size = excluded.size, nodes = excluded.nodes, listed = max(listed, excluded.listed)",
                (bytes(digest), size, nodes, digest in batch.listed),
            )
        number = self._pack_number
        db.executemany(
            "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)",
            [(id_, number(place.pack), place.offset, place.length, place.mark) for id_, place in batch.chunks],
        )
        db.executemany(
            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)",
            [(id_, number(pack), place) for id_, pack, place in batch.contents],
        )
        db.executemany(
            "INSERT INTO refs VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tag) DO UPDATE SET "
            "version = excluded.version, etag = excluded.etag, record = excluded.record, keep = excluded.keep, "
            "mark = excluded.mark, at = excluded.at "
            "WHERE excluded.version >= version",
            [
                (tag, parent, ref.version, bytes(ref.etag), ref.record, ref.keep, ref.mark, ref.at)
                for tag, (parent, ref) in batch.refs.items()
            ],
        )
        db.executemany(
            "INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(directory, name, *stat) for directory, name, stat in batch.stats],
        )

    def list_packs(self, packs: Iterable[ListedPack]) -> None:
        """The chunks of packs whose indexes were read; a chunk that is known keeps its place."""
        try:
            with self._db:
                for pack in packs:
                    number = self._pack_number(pack.digest)
                    self._db.execute("UPDATE packs SET listed = 1, size = ? WHERE number = ?", (pack.size, number))
                    self._db.executemany(
                        "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, x'')",
                        [(id_, number, offset, length) for id_, offset, length in pack.chunks],
                    )
        except BaseException:
            self._packs.clear()
            raise

    def set_rebuilt(self, again: int) -> None:
        """All packs were listed; ``again``: when to look for those that could not be read (seconds), 0 if none."""
        self._db.execute("INSERT OR REPLACE INTO state VALUES ('rebuilt', ?)", (again,))

    def set_survive(self, survive: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES ('survive', ?)", (survive,))

    def add_fork(self, tag: bytes, etag: Digest, record: bytes) -> None:
        """Another record of the same version: kept, so that a person can compare."""
        self._db.execute("INSERT OR IGNORE INTO forks VALUES (?, ?, ?)", (tag, bytes(etag), record))

    def forget_packs(self, digests: Iterable[Digest]) -> None:
        """These packs are gone: nothing may be deduplicated against them."""
        with self._db:
            for digest in digests:
                row = self._db.execute("SELECT number FROM packs WHERE digest = ?", (bytes(digest),)).fetchone()
                self._packs.pop(digest, None)
                if row is None:
                    continue
                self._db.execute("DELETE FROM chunks WHERE pack = ?", row)
                self._db.execute("DELETE FROM contents WHERE pack = ?", row)
                self._db.execute("DELETE FROM packs WHERE number = ?", row)

    def forget_contents(self, ids: Iterable[bytes]) -> None:
        self._db.executemany("DELETE FROM contents WHERE id = ?", [(id_,) for id_ in ids])

    def _pack_number(self, digest: Digest) -> int:
        number = self._packs.get(digest)
        if number is None:
            if len(self._packs) > 4096:
                self._packs.clear()
            self._db.execute("INSERT OR IGNORE INTO packs (digest, size, nodes) VALUES (?, 0, x'')", (bytes(digest),))
            rows = self._db.execute("SELECT number FROM packs WHERE digest = ?", (bytes(digest),)).fetchall()
            number = self._packs[digest] = number_of(rows)
        return number

    def _node_number(self, node: NodeRow) -> int:
        number = self._nodes.get(node.id)
        if number is None or node.url:
            self._db.execute(
                "INSERT INTO nodes (id, name, url) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
                "SET name = excluded.name, url = excluded.url WHERE excluded.url != '' AND excluded.url != url",
                (bytes(node.id), node.name, node.url),
            )
            rows = self._db.execute("SELECT number FROM nodes WHERE id = ?", (bytes(node.id),)).fetchall()
            number = self._nodes[node.id] = number_of(rows)
        return number

    # --- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> apsw.Connection:
        self._packs.clear()
        self._nodes.clear()
        if self._path is not None:
            for _ in range(2):
                try:
                    return self._open_file(self._path)
                except (apsw.Error, OSError, ValueError) as error:
                    _log.warning("index_set_aside", path=str(self._path), reason=str(error))
                    self._set_aside()
            _log.warning("index_in_memory", path=str(self._path))
        return self._prepared(apsw.Connection(":memory:"))

    def _open_file(self, path: Path) -> apsw.Connection:
        self._files.make_directory(path.parent, durable=False)
        if self._files.size(path) is None:
            with contextlib.suppress(FileExistsError):
                self._files.close(self._files.create(path))  # made here so that its mode is 0600
        return self._prepared(apsw.Connection(os.fspath(path)))

    def _prepared(self, db: apsw.Connection) -> apsw.Connection:
        try:
            db.set_busy_timeout(BUSY_MS)
            db.pragma("journal_mode", "wal")
            db.pragma("synchronous", "normal")
            db.pragma("cache_size", -CACHE_KIB)
            with db:
                magic, version = db.pragma("application_id"), db.pragma("user_version")
                if (magic, version) == (0, 0) and not db.execute("SELECT 1 FROM sqlite_schema").fetchall():
                    db.execute(_TABLES)
                    db.pragma("application_id", MAGIC)
                    db.pragma("user_version", VERSION)
                elif (magic, version) != (MAGIC, VERSION):
                    raise ValueError(f"not an index of version {VERSION}")
                db.execute(_INDEXES)
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self) -> None:
        if self._path is None:
            return
        for suffix in ("", "-wal", "-shm"):
            path = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(OSError):
                if suffix:
                    self._files.unlink(path)
                else:
                    self._files.rename(path, path.with_name(path.name + ".broken"))


def number_of(rows: Sequence[tuple[object, ...]]) -> int:
    """The one integer of a query's answer."""
    ((number,),) = rows
    assert isinstance(number, int)
    return number
