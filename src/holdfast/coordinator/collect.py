"""Letting go: what leases, kept versions and old tombstones held is released; it goes on to trash, then is gone.

Each function is one transaction over a bounded number of rows and may be repeated at any time. Moving a pack to trash
checks again, in the same transaction, that no ref, kept version or lease holds it; delete grants are given only for
packs that it returned (docs/design.md, 6).
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from sqlalchemy import Connection

from holdfast.blob import Digest
from holdfast.codec.refs import RefKind
from holdfast.metadata import queries_members, queries_packs, queries_refs

ROWS_MAX = 1000


class Trashed(NamedTuple):
    """A pack whose copies may now be moved to the nodes' trash; ``places``: node number -> write sequence."""

    digest: Digest
    places: dict[int, int]


def release(connection: Connection, slow_now: float) -> bool:
    """Drops versions whose time is over, ends leases, releases what nothing holds; True if there may be more.

    Of old tombstones only version and etag stay.
    """
    dropped, keeps = queries_refs.drop_history(connection, slow_now, ROWS_MAX)
    shrunk, more = queries_refs.shrink_tombstones(connection, slow_now, ROWS_MAX, RefKind.TOMBSTONE)
    let_go = queries_packs.drop_unused_keep_lists(connection, keeps | more)
    lapsed = queries_packs.lapsed_leases(connection, int(slow_now), ROWS_MAX)
    queries_packs.end_leases(connection, lapsed)
    queries_packs.release_unheld(connection, let_go.union(lapsed))
    return ROWS_MAX in (dropped, shrunk) or len(lapsed) == ROWS_MAX


def trash(connection: Connection) -> list[Trashed]:
    """Released packs that nothing holds become trashed and stop counting against their vault's quota."""
    rows = queries_packs.trash_released(connection, ROWS_MAX)
    freed: Counter[int] = Counter()
    for row in rows:
        freed[row.vault] += row.size
    used = queries_members.bytes_used(connection, list(freed))
    queries_members.change_bytes_used(connection, {vault: used[vault] - size for vault, size in freed.items()})
    places = queries_packs.places(connection, (row.number for row in rows))
    return [Trashed(Digest(row.digest), places.get(row.number, {})) for row in rows]


def forget(connection: Connection) -> int:
    """Trashed packs without a copy left become gone; how many."""
    return queries_packs.forget_trashed(connection, ROWS_MAX)
