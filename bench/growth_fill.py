"""A coordinator's database of very many packs and names, as commits leave them, written past the coordinator."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.blob import Digest
from holdfast.codec.refs import RefKind, etag
from holdfast.inventory import ROOT_BYTES
from holdfast.metadata.tables import PackState

COPIES = 3
PACK_BYTES = 16 << 20
ENTRIES = 100
"""Names in a directory."""

MANY = 400
"""Names in the one large directory."""

FREED = 100
"""Packs that nothing holds any more."""

LOST = 500
"""Packs on the small node, however many there are in all."""

_MODULUS = 1 << (8 * ROOT_BYTES)
_TAG = hashlib.sha256(b"name ").digest()


@dataclass
class Filled:
    """What lies where: node -> (packs, sum of their digests)."""

    counts: dict[int, int] = field(default_factory=dict)
    sums: dict[int, int] = field(default_factory=dict)

    def place(self, node: int, digest: bytes) -> None:
        self.counts[node] = self.counts.get(node, 0) + 1
        term = int.from_bytes(digest[-ROOT_BYTES:], "big")
        self.sums[node] = (self.sums.get(node, 0) + term) % _MODULUS

    def root(self, node: int) -> bytes:
        return self.sums.get(node, 0).to_bytes(ROOT_BYTES, "big")


def digest_of(number: int) -> bytes:
    """The digest of pack ``number``."""
    return Digest.of(b"grown %d" % number)


def tag_of(number: int) -> bytes:
    """The name tag of name ``number``."""
    return Digest.of(b"name %d" % number)


def parent_of(number: int) -> bytes:
    """The directory that name ``number`` is in: the first ones are in the large one, the others ``ENTRIES`` to each."""
    return directory_tag(0 if number < MANY else 1 + number // ENTRIES)


def directory_tag(number: int) -> bytes:
    return Digest.of(b"directory %d" % number)


def fill(path: Path, packs: int, nodes: Sequence[int], small: int, vault: int, record: bytes, slow: float) -> Filled:
    """``packs`` packs, a name for each. ``record``: one of any name, whose name tag is put in its place.

    Every tenth name has a former version, every hundredth is deleted; ``FREED`` packs have a lease that is over, and
    ``small`` holds one copy each of ``LOST`` packs.
    """
    filled = Filled()
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        connection.execute("BEGIN")
        first = int(connection.execute("SELECT coalesce(max(number), 0) FROM packs").fetchone()[0]) + 1
        connection.executemany("INSERT INTO packs VALUES (?, ?, ?, ?, ?, ?, ?, 0)", _packs(first, packs, vault, slow))
        connection.executemany("INSERT INTO placements VALUES (?, ?, ?)", _places(first, packs, nodes, small, filled))
        kept = range(FREED, packs)
        connection.executemany(
            "INSERT INTO keep_lists VALUES (?, ?, ?)", ((first + at, vault, os.urandom(32)) for at in kept)
        )
        connection.executemany("INSERT INTO keep_packs VALUES (?, ?)", ((first + at, first + at) for at in kept))
        connection.executemany(
            "INSERT INTO refs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0.0)", _refs(first, kept, vault, record)
        )
        connection.executemany(
            "INSERT INTO ref_history VALUES (NULL, ?, ?, ?, ?, ?, ?, 0.0, ?, 1)",
            (
                (vault, tag_of(at), 1, os.urandom(32), record, first + at, slow + 7 * 86400)
                for at in kept
                if at % 10 == 0
            ),
        )
        connection.executemany(
            "INSERT INTO tombstones VALUES (?, ?, 2, ?, ?)",
            ((vault, tag_of(at), os.urandom(32), slow + 90 * 86400) for at in kept if at % 100 == 0),
        )
        connection.execute("DELETE FROM beliefs")  # as after a crash
        connection.execute("UPDATE meta SET commit_number = 1, reflog_number = 1")
        connection.execute(  # nodes know of all these names already
            "INSERT INTO reflogs SELECT 1, 1, ?, 1000, epoch, 1, ?, ? FROM meta", (os.urandom(32), os.urandom(32), slow)
        )
        for node, count in filled.counts.items():
            connection.execute(
                "UPDATE nodes SET sequence = ?, read_sequence = ?, blobs = ?, root = ? WHERE number = ?",
                (packs, packs, count, filled.root(node), node),
            )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return filled


def _packs(first: int, packs: int, vault: int, slow: float) -> Iterator[tuple[object, ...]]:
    for at in range(packs):
        state, lease = (PackState.LEASED, int(slow) - 1) if at < FREED else (PackState.LIVE, None)
        yield first + at, digest_of(at), vault, PACK_BYTES, state.value, COPIES, lease


def _places(first: int, packs: int, nodes: Sequence[int], small: int, filled: Filled) -> Iterator[tuple[int, int, int]]:
    for at in range(packs):
        digest = digest_of(at)
        on = [nodes[(at + step) % len(nodes)] for step in range(COPIES)]
        if FREED <= at < FREED + LOST:
            on[0] = small
        for node in sorted(on):
            filled.place(node, digest)
            yield first + at, node, at + 1


def _refs(first: int, kept: range, vault: int, record: bytes) -> Iterator[tuple[object, ...]]:
    for at in kept:
        mine = record.replace(_TAG, tag_of(at))
        deleted = at % 100 == 0
        kind, version = (RefKind.TOMBSTONE, 2) if deleted else (RefKind.FILE, 1 + (at % 10 == 0))
        yield vault, tag_of(at), parent_of(at), kind.value, version, bytes(etag(mine)), mine, first + at
