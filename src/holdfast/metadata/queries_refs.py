"""Queries about refs and their history. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, select

from holdfast.metadata.dialects import insert_or_update
from holdfast.metadata.queries_packs import portions
from holdfast.metadata.tables import keep_lists, ref_history, refs

_SOME: BindParameter[Any] = bindparam("some", expanding=True)
_REFS_BY_TAG = (
    select(refs, keep_lists.c.digest.label("keep_digest"))
    .join(keep_lists, keep_lists.c.number == refs.c.keep)
    .where(refs.c.vault == bindparam("vault_"), refs.c.tag.in_(_SOME))
)
_PAST = select(ref_history.c.tag, ref_history.c.etag).where(
    ref_history.c.vault == bindparam("vault_"), ref_history.c.tag.in_(_SOME)
)
_ADD_HISTORY = insert(ref_history)
_CHANGING = ("parent", "kind", "version", "etag", "record", "keep", "commit_number", "committed")


def refs_by_tag(connection: Connection, vault: int, tags: Iterable[bytes]) -> list[Any]:
    """Present refs, tombstones too, each with ``keep_digest`` of its keep list."""
    found: list[Any] = []
    for some in portions(tags):
        found += connection.execute(_REFS_BY_TAG, {"vault_": vault, "some": some})
    return found


def ref_page(
    connection: Connection, vault: int, parent: bytes | None, after: bytes, limit: int, tombstone: int
) -> Sequence[Any]:
    """Rows tag, record, keep ascending by tag, those of kind ``tombstone`` left out."""
    found = select(refs.c.tag, refs.c.record, refs.c.keep).where(
        refs.c.vault == vault, refs.c.tag > after, refs.c.kind != tombstone
    )
    if parent is not None:
        found = found.where(refs.c.parent == parent)
    return connection.execute(found.order_by(refs.c.tag).limit(limit)).all()


def put_refs(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each row has every column of ``refs`` but its number; a present ref of the same tag is replaced."""
    if rows:
        connection.execute(insert_or_update(connection, refs, ("vault", "tag"), _CHANGING), list(rows))


def past_etags(connection: Connection, vault: int, tags: Iterable[bytes]) -> dict[bytes, set[bytes]]:
    """Etags of the kept versions of each tag."""
    found: dict[bytes, set[bytes]] = {}
    for some in portions(tags):
        for tag, etag in connection.execute(_PAST, {"vault_": vault, "some": some}):
            found.setdefault(tag, set()).add(etag)
    return found


def history(connection: Connection, vault: int, tag: bytes) -> Sequence[Any]:
    """Kept versions, newest first: record, committed, until."""
    return connection.execute(
        select(ref_history.c.record, ref_history.c.committed, ref_history.c.until)
        .where(ref_history.c.vault == vault, ref_history.c.tag == tag)
        .order_by(ref_history.c.version.desc())
    ).all()


def add_history(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each row: vault, tag, version, etag, record, keep, committed, until."""
    if rows:
        connection.execute(_ADD_HISTORY, list(rows))


def drop_history(connection: Connection, now: float, limit: int) -> tuple[int, set[int]]:
    """Deletes versions kept until ``now`` (slow seconds): (how many, the keep lists that they named)."""
    due = connection.execute(
        select(ref_history.c.number, ref_history.c.keep).where(ref_history.c.until <= now).limit(limit)
    ).all()
    for some in portions(row.number for row in due):
        connection.execute(delete(ref_history).where(ref_history.c.number.in_(some)))
    return len(due), {row.keep for row in due}
