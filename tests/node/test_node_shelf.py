"""Small blobs in memory: only while the ledger's row stands as it was, and never more than the limit."""

from __future__ import annotations

from dataclasses import replace

from holdfast.blob import Digest
from holdfast.node.ledger.rows import Entry
from holdfast.node.shelf import Shelf


def entry(data: bytes, sequence: int = 1) -> Entry:
    return Entry(Digest.of(data), sequence, len(data), "cache", None, True)


def test_what_was_put_is_found_until_its_row_changes() -> None:
    shelf, row = Shelf(), entry(b"one")
    assert shelf.find(row) is None
    shelf.put(row, b"one")
    assert shelf.find(row) == b"one"
    assert shelf.find(replace(row, here=False)) is None
    shelf.put(row, b"one")
    assert shelf.find(replace(row, sequence=2)) is None
    assert shelf.find(row) is None, "it was dropped when another row was seen"
    assert shelf.stored == 0


def test_the_least_recently_read_go_first() -> None:
    shelf = Shelf(limit=10)
    rows = [entry(bytes([number]) * 4) for number in range(3)]
    shelf.put(rows[0], bytes([0]) * 4)
    shelf.put(rows[1], bytes([1]) * 4)
    assert shelf.find(rows[0]) is not None
    shelf.put(rows[2], bytes([2]) * 4)
    assert [shelf.find(row) is not None for row in rows] == [True, False, True]
    shelf.put(entry(b"x" * 11), b"x" * 11)
    assert shelf.stored == 8
