"""Queries about refs and their history. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, select, update

from holdfast.metadata.prepared import among
from holdfast.metadata.queries_packs import portions
from holdfast.metadata.tables import keep_lists, keep_packs, packs, placements, ref_history, refs, tombstones
from holdfast.metadata.together import Question, ask, post, post_rows

_REFS_BY_TAG = (
    select(refs, keep_lists.c.digest.label("keep_digest"))
    .join(keep_lists, keep_lists.c.number == refs.c.keep)
    .where(refs.c.vault == bindparam("vault_"), among(refs.c.tag))
)
_PLACES_BY_TAG = (
    select(refs.c.tag, packs.c.number, packs.c.digest, packs.c.size, placements.c.node)
    .join(keep_packs, keep_packs.c.keep == refs.c.keep)
    .join(packs, packs.c.number == keep_packs.c.pack)
    .outerjoin(placements, placements.c.pack == packs.c.number)
    .where(refs.c.vault == bindparam("vault_"), among(refs.c.tag))
    .order_by(refs.c.tag, packs.c.number)
)
_PAST = select(ref_history.c.tag, ref_history.c.etag, ref_history.c.version).where(
    ref_history.c.vault == bindparam("vault_"), among(ref_history.c.tag)
)
_SHRUNK = select(tombstones.c.tag, tombstones.c.version, tombstones.c.etag).where(
    tombstones.c.vault == bindparam("vault_"), tombstones.c.due.is_(None), among(tombstones.c.tag)
)
_END_TOMBSTONE = delete(tombstones).where(
    tombstones.c.vault == bindparam("vault_"), tombstones.c.tag == bindparam("tag_")
)
_PAST_COLUMNS = ("etag", "record", "keep", "committed", "until", "commit_number")
_CHANGING = ("parent", "kind", "version", "etag", "record", "keep", "commit_number", "committed")


def refs_by_tag(connection: Connection, vault: int, tags: Iterable[bytes]) -> list[Any]:
    """Present refs, tombstones too, each with ``keep_digest`` of its keep list."""
    found: list[Any] = []
    for some in portions(tags):
        found += ask(connection, [(_REFS_BY_TAG, {"vault_": vault, "some": some})])[0]
    return found


def questions_of_tags(vault: int, tags: Sequence[bytes]) -> list[Question]:
    """What ``refs_by_tag`` answers, and what ``shrunk`` does; one list of at most IN_LIST_MAX."""
    return [(_REFS_BY_TAG, {"vault_": vault, "some": tags}), (_SHRUNK, {"vault_": vault, "some": tags})]


def questions_of_reading(vault: int, tags: Sequence[bytes]) -> list[Question]:
    """What ``shrunk`` answers, what ``refs_by_tag`` does, and then rows tag, number, digest, size, node of the packs
    that each keeps, ascending by tag and number; node None: a pack without a place. At most IN_LIST_MAX tags."""
    parameters = {"vault_": vault, "some": tags}
    return [(_SHRUNK, parameters), (_REFS_BY_TAG, parameters), (_PLACES_BY_TAG, parameters)]


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
    post_rows(connection, refs, rows, ("vault", "tag"), _CHANGING)


def trash_page(
    connection: Connection, vault: int, parent: bytes | None, after: bytes, limit: int, tombstone: int
) -> Sequence[Any]:
    """Deleted names of which a version is kept, ascending by tag: tag, record, kept (the newest's), until (slow)."""
    # From the directory's names, or from the vault's tombstones, one by one to their versions: the rest is not read.
    names = refs if parent is not None else tombstones
    past = ref_history.alias()
    newest = (
        select(func.max(past.c.version))
        .where(past.c.vault == vault, past.c.tag == names.c.tag)
        .correlate(names)
        .scalar_subquery()
    )
    kept = and_(ref_history.c.vault == vault, ref_history.c.tag == names.c.tag, ref_history.c.version == newest)
    found = select(
        names.c.tag, refs.c.record, refs.c.committed, ref_history.c.record.label("kept"), ref_history.c.until
    ).where(names.c.vault == vault, names.c.tag > after, refs.c.kind == tombstone)
    if parent is not None:
        found = found.select_from(refs.join(ref_history, kept)).where(refs.c.parent == parent)
    else:
        name = and_(refs.c.vault == tombstones.c.vault, refs.c.tag == tombstones.c.tag)
        found = found.select_from(tombstones.join(refs, name).join(ref_history, kept))
    return connection.execute(found.order_by(names.c.tag).limit(limit)).all()


# --- tombstones -------------------------------------------------------------------------------------------------------


def shrunk(connection: Connection, vault: int, tags: Iterable[bytes]) -> list[Any]:
    """Rows tag, version, etag of names of which nothing but that is left."""
    found: list[Any] = []
    for some in portions(tags):
        found += ask(connection, [(_SHRUNK, {"vault_": vault, "some": some})])[0]
    return found


def put_tombstones(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each row: vault, tag, version, etag, due (slow)."""
    post_rows(connection, tombstones, rows, ("vault", "tag"), ("version", "etag", "due"))


def end_tombstones(connection: Connection, names: Iterable[tuple[int, bytes]]) -> None:
    """These names, (vault, tag) each, exist again."""
    rows = [{"vault_": vault, "tag_": tag} for vault, tag in names]
    post(connection, _END_TOMBSTONE, rows)


def shrink_tombstones(connection: Connection, now: float, limit: int, tombstone: int) -> tuple[int, set[int]]:
    """Drops the refs of tombstones due at ``now`` (slow): (how many, the keep lists that they named)."""
    due = connection.execute(
        select(tombstones.c.vault, tombstones.c.tag).where(tombstones.c.due <= now).limit(limit)
    ).all()
    keeps: set[int] = set()
    for vault, tag in due:
        chosen = (refs.c.vault == vault, refs.c.tag == tag, refs.c.kind == tombstone)
        keeps.update(connection.execute(select(refs.c.keep).where(*chosen)).scalars())
        connection.execute(delete(refs).where(*chosen))
        name = (tombstones.c.vault == vault, tombstones.c.tag == tag)
        connection.execute(update(tombstones).where(*name).values(due=None))
    return len(due), keeps


def past_etags(connection: Connection, vault: int, tags: Iterable[bytes]) -> dict[bytes, dict[bytes, int]]:
    """The kept versions of each tag: etag -> version."""
    found: dict[bytes, dict[bytes, int]] = {}
    for some in portions(tags):
        for tag, etag, version in ask(connection, [(_PAST, {"vault_": vault, "some": some})])[0]:
            found.setdefault(tag, {})[etag] = version
    return found


def history(connection: Connection, vault: int, tag: bytes) -> Sequence[Any]:
    """Kept versions, newest first: record, committed, until."""
    return connection.execute(
        select(ref_history.c.record, ref_history.c.committed, ref_history.c.until)
        .where(ref_history.c.vault == vault, ref_history.c.tag == tag)
        .order_by(ref_history.c.version.desc())
    ).all()


def add_history(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each row: vault, tag, version, etag, record, keep, committed, until, commit_number.

    Of two versions with one number, which only two coordinators at once can make, the one that comes later stays.
    """
    post_rows(connection, ref_history, rows, ("vault", "tag", "version"), _PAST_COLUMNS)


def drop_history(connection: Connection, now: float, limit: int) -> tuple[int, set[int]]:
    """Deletes versions kept until ``now`` (slow seconds): (how many, the keep lists that they named)."""
    due = connection.execute(
        select(ref_history.c.number, ref_history.c.keep).where(ref_history.c.until <= now).limit(limit)
    ).all()
    for some in portions(row.number for row in due):
        connection.execute(delete(ref_history).where(ref_history.c.number.in_(some)))
    return len(due), {row.keep for row in due}
