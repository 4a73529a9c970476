"""Queries for the reflog: what changed since a commit, and which blobs say so. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from holdfast.metadata.queries_packs import portions
from holdfast.metadata.tables import (
    keep_packs,
    meta,
    packs,
    ref_history,
    reflog_places,
    reflogs,
    refs,
    tombstones,
    vaults,
)
from holdfast.metadata.together import post_rows

# --- what is to be written --------------------------------------------------------------------------------------------


def changed_refs(connection: Connection, after: int, limit: int) -> tuple[list[Any], int]:
    """(rows record, keep, committed, the commit that they go up to) of what commits above ``after`` wrote or replaced.

    All rows of a commit or none: about ``limit`` of them, at least those of one commit.
    """
    end = int(connection.execute(select(meta.c.commit_number)).scalar_one())
    for table in (refs, ref_history):
        numbers = select(table.c.commit_number).where(table.c.commit_number > after).order_by(table.c.commit_number)
        beyond = connection.execute(numbers.offset(limit).limit(1)).scalar_one_or_none()
        if beyond is not None:
            first = connection.execute(numbers.limit(1)).scalar_one()
            end = min(end, max(beyond - 1, first))
    found: list[Any] = []
    for table in (refs, ref_history):
        columns = (table.c.record, table.c.keep, table.c.committed)
        found += connection.execute(select(*columns).where(table.c.commit_number > after, table.c.commit_number <= end))
    return found, end


def ended_names(connection: Connection, limit: int) -> list[Any]:
    """Rows vault (its id), tag, version, etag of names of which nothing else is left."""
    found = (
        select(vaults.c.id.label("vault"), tombstones.c.tag, tombstones.c.version, tombstones.c.etag)
        .join(vaults, vaults.c.number == tombstones.c.vault)
        .where(tombstones.c.due.is_(None))
        .limit(limit)
    )
    return list(connection.execute(found))


def keep_list_packs(connection: Connection, keeps: Iterable[int]) -> dict[int, list[bytes]]:
    """Keep list -> the digests of its packs."""
    found: dict[int, list[bytes]] = {}
    for some in portions(set(keeps)):
        rows = connection.execute(
            select(keep_packs.c.keep, packs.c.digest)
            .join(packs, packs.c.number == keep_packs.c.pack)
            .where(keep_packs.c.keep.in_(some))
        )
        for keep, digest in rows:
            found.setdefault(keep, []).append(digest)
    return found


# --- which blobs there are --------------------------------------------------------------------------------------------


def all_reflogs(connection: Connection) -> list[Any]:
    """Rows of ``reflogs``, ascending by number."""
    return list(connection.execute(select(reflogs).order_by(reflogs.c.number)))


def reflog_copies(connection: Connection) -> dict[int, dict[int, int]]:
    """Reflog -> node -> write sequence."""
    found: dict[int, dict[int, int]] = {}
    for row in connection.execute(select(reflog_places)):
        found.setdefault(row.reflog, {})[row.node] = row.sequence
    return found


def add_reflog(connection: Connection, row: Mapping[str, Any], places: Mapping[int, int]) -> None:
    """A blob is durable. ``row``: the columns of ``reflogs``."""
    connection.execute(insert(reflogs), row)
    place_reflog(connection, row["number"], places)
    connection.execute(update(meta).values(reflog_number=row["number"]))


def place_reflog(connection: Connection, number: int, places: Mapping[int, int]) -> None:
    rows = [{"reflog": number, "node": node, "sequence": sequence} for node, sequence in places.items()]
    post_rows(connection, reflog_places, rows, ("reflog", "node"), ("sequence",))


def unplace_reflogs(connection: Connection, numbers: Iterable[int], node: int) -> None:
    """These blobs are not on ``node`` any more."""
    for some in portions(numbers):
        connection.execute(delete(reflog_places).where(reflog_places.c.node == node, reflog_places.c.reflog.in_(some)))


def forget_reflogs(connection: Connection, before: int) -> None:
    """Blobs with a number below ``before`` are needed no more."""
    connection.execute(delete(reflog_places).where(reflog_places.c.reflog < before))
    connection.execute(delete(reflogs).where(reflogs.c.number < before))


# --- packs that nobody has read ---------------------------------------------------------------------------------------


def unread_vaults(connection: Connection) -> set[int]:
    """Vaults with packs that were adopted and that no device has read."""
    return set(connection.execute(select(packs.c.vault).where(packs.c.adopted == 1).distinct()).scalars())


def mark_read(connection: Connection, vault: int, digests: Iterable[bytes]) -> list[int]:
    """A device of the vault has read these packs and committed what refs they bring; their numbers."""
    found: list[int] = []
    for some in portions(digests):
        chosen = (packs.c.digest.in_(some), packs.c.vault == vault, packs.c.adopted == 1)
        found += connection.execute(select(packs.c.number).where(*chosen)).scalars()
        connection.execute(update(packs).where(*chosen).values(adopted=0))
    return found
