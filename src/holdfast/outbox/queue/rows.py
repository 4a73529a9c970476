"""Rows of ``queue.db`` as they are read and added, and the names of the files that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apsw

from holdfast.blob import Digest
from holdfast.outbox.entry import DeliveryClass, State
from holdfast.outbox.queue.schema import KEY_BYTES

READY = "state <= 1 AND behind = 0 AND claim IS NULL"
"""What may be claimed; the words of the index ``entries_ready``."""


class Row(NamedTuple):
    """An entry's columns; ``claim`` is the process that has it."""

    sequence: int
    id: bytes
    state: int
    delivery_class: int
    kind: str
    size: int
    stored: int
    filed: int
    theirs: int
    theirs_process: bytes | None
    begun: int
    tries: int
    reached: int
    next_try: float
    target: bytes
    keys: bytes
    process: bytes
    claim: bytes | None
    sealed: bytes
    progress: bytes | None

    def clear(self) -> bytes:
        """What the sealed record is bound to."""
        return clear(self.kind, self.delivery_class, self.size)

    def tags(self) -> list[bytes]:
        """Of the keys it is to stand in."""
        return [self.keys[start : start + KEY_BYTES] for start in range(0, len(self.keys), KEY_BYTES)]

    def file_name(self) -> str:
        return f"{self.process.hex()}-{self.id.hex()}"

    def theirs_name(self) -> str:
        return theirs_name(self.theirs_process or b"", self.id)


COLUMNS = ", ".join("class" if name == "delivery_class" else name for name in Row._fields)


class Fresh(NamedTuple):
    """A row to be added; ``sealed`` is bound to ``clear(...)``."""

    id: bytes
    delivery_class: DeliveryClass
    kind: str
    size: int
    stored: int
    filed: bool
    target: bytes
    keys: tuple[bytes, ...]
    needs: tuple[Digest, ...]
    sealed: bytes
    body: bytes | None


class Total(NamedTuple):
    """Entries and stored bytes of one state and class; packs have neither."""

    state: State | None
    delivery_class: DeliveryClass | None
    entries: int
    stored: int


class PackRow(NamedTuple):
    """``facts``: what the sender left, sealed; None before it was sent. ``needed``: entries that wait for it."""

    digest: Digest
    size: int
    process: bytes
    facts: bytes | None
    needed: int

    def file_name(self) -> str:
        return pack_name(self.process, self.digest)


def clear(kind: str, delivery_class: int, size: int) -> bytes:
    return f"{kind}\0{delivery_class}\0{size}".encode()


def theirs_name(process: bytes, entry: bytes) -> str:
    return f"{process.hex()}-{entry.hex()}.theirs"


def pack_name(process: bytes, digest: Digest) -> str:
    return f"{process.hex()}-{digest}.pack"


def distinct(db: apsw.Connection, column: str, condition: str) -> Iterator[bytes]:
    """The different values of an indexed column of ``entries``, by jumps and not by a scan."""
    value: Any = b""
    while True:
        ((value,),) = db.execute(
            f"SELECT min({column}) FROM entries WHERE {condition} AND {column} > ?",  # noqa: S608
            (value,),
        ).fetchall()
        if value is None:
            return
        yield value


_ROWS_AT_ONCE = (16, 4, 1)
"""A few lengths only: SQLite prepares a statement once for each."""


def insert_rows(db: apsw.Connection, insert: str, row: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """``insert`` with the placeholders ``row``, for many rows in few statements."""
    if len(rows) == 1:
        db.execute(insert + row, rows[0])
        return
    start = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - start >= size:
            some = rows[start : start + size]
            db.execute(insert + ", ".join([row] * size), [value for one in some for value in one])
            start += size
