"""Queries about packs, who holds them and what keeps them. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, exists, or_, select, update

from holdfast.metadata.dialects import IN_LIST_MAX
from holdfast.metadata.prepared import among
from holdfast.metadata.tables import PackState, keep_lists, keep_packs, packs, placements, ref_history, refs
from holdfast.metadata.together import Question, add_rows, ask, post, post_rows

T = TypeVar("T")

# Statements that run with every commit are made once: making one costs more than running it.
_PACK = (
    packs.c.number,
    packs.c.digest,
    packs.c.vault,
    packs.c.size,
    packs.c.state,
    packs.c.target,
    packs.c.lease_until,
)
_PACKS_BY_DIGEST = select(*_PACK).where(among(packs.c.digest))
_PACKS_BY_NUMBER = select(*_PACK).where(among(packs.c.number))
_PLACES = select(placements.c.pack, placements.c.node, placements.c.sequence).where(among(placements.c.pack))
_CHANGE_PACKS = (
    update(packs)
    .where(packs.c.number == bindparam("number_"))
    .values(state=bindparam("state_"), target=bindparam("target_"), lease_until=bindparam("lease_until_"))
)
_UNPLACE = delete(placements).where(placements.c.pack == bindparam("pack_"), placements.c.node == bindparam("node_"))
_KEEPS_BY_DIGEST = select(keep_lists.c.digest, keep_lists.c.number).where(
    keep_lists.c.vault == bindparam("vault"), among(keep_lists.c.digest)
)
_KEPT = select(keep_packs.c.keep, keep_packs.c.pack).where(among(keep_packs.c.keep))
_KEPT_BY_DIGEST = (
    select(keep_lists.c.digest, keep_lists.c.number, keep_packs.c.pack)
    .outerjoin(keep_packs, keep_packs.c.keep == keep_lists.c.number)
    .where(keep_lists.c.vault == bindparam("vault"), among(keep_lists.c.digest))
)
_PLACES_BY_DIGEST = (
    select(placements.c.pack, placements.c.node, placements.c.sequence)
    .join(packs, packs.c.number == placements.c.pack)
    .where(among(packs.c.digest))
)


def portions(values: Iterable[T]) -> Iterator[list[T]]:
    """``values`` in lists that fit into one IN."""
    items = list(values)
    for start in range(0, len(items), IN_LIST_MAX):
        yield items[start : start + IN_LIST_MAX]


# --- packs ------------------------------------------------------------------------------------------------------------


def packs_by_digest(connection: Connection, digests: Iterable[bytes]) -> list[Any]:
    """Rows number, digest, vault, size, state, target, lease_until of those that are known."""
    found: list[Any] = []
    for some in portions(digests):
        found += ask(connection, [(_PACKS_BY_DIGEST, {"some": some})])[0]
    return found


def questions_by_digest(digests: Sequence[bytes]) -> list[Question]:
    """What ``packs_by_digest`` answers, and then the rows (pack, node, sequence) of their places; one list of at most
    IN_LIST_MAX."""
    return [(_PACKS_BY_DIGEST, {"some": digests}), (_PLACES_BY_DIGEST, {"some": digests})]


def question_of_keeps(vault: int, digests: Sequence[bytes]) -> Question:
    """Rows digest, number, pack of the vault's keep lists among ``digests``, at most IN_LIST_MAX; pack None: none."""
    return _KEPT_BY_DIGEST, {"vault": vault, "some": digests}


def packs_by_number(connection: Connection, numbers: Iterable[int]) -> list[Any]:
    found: list[Any] = []
    for some in portions(numbers):
        found += ask(connection, [(_PACKS_BY_NUMBER, {"some": some})])[0]
    return found


def places(connection: Connection, numbers: Iterable[int]) -> dict[int, dict[int, int]]:
    """Pack -> node -> write sequence, by numbers."""
    found: dict[int, dict[int, int]] = {}
    for some in portions(numbers):
        for pack, node, sequence in ask(connection, [(_PLACES, {"some": some})])[0]:
            found.setdefault(pack, {})[node] = sequence
    return found


def vault_packs(connection: Connection, vault: int, after: bytes, limit: int, *, unread: bool = False) -> Sequence[Any]:
    """The vault's packs that are leased, live or released, ascending by digest; ``unread``: of the adopted ones."""
    found = select(*_PACK).where(packs.c.vault == vault, packs.c.digest > after, packs.c.state <= PackState.RELEASED)
    if unread:
        found = found.where(packs.c.adopted == 1)
    return connection.execute(found.order_by(packs.c.digest).limit(limit)).all()


def add_packs(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[bytes, int]:
    """Inserts new packs; their numbers by digest."""
    return {row["digest"]: number for row, number in zip(rows, add_rows(connection, packs, rows), strict=True)}


def change_packs(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Each row: number_, state_, target_, lease_until_."""
    changes = list(rows)
    post(connection, _CHANGE_PACKS, changes)


def set_sizes(connection: Connection, sizes: Mapping[int, int]) -> None:
    """Pack -> bytes, of packs whose size was not known."""
    for number, size in sizes.items():
        connection.execute(update(packs).where(packs.c.number == number).values(size=size))


def place(connection: Connection, rows: Sequence[Mapping[str, int]]) -> None:
    """Each row: pack, node, sequence; a copy that is known gets the new sequence."""
    post_rows(connection, placements, rows, ("pack", "node"), ("sequence",))


def unplace(connection: Connection, pairs: Iterable[tuple[int, int]]) -> None:
    """Forgets copies, each (pack, node)."""
    rows = [{"pack_": pack, "node_": node} for pack, node in pairs]
    post(connection, _UNPLACE, rows)


# --- keep lists -------------------------------------------------------------------------------------------------------


def keep_lists_by_digest(connection: Connection, vault: int, digests: Iterable[bytes]) -> dict[bytes, int]:
    """Numbers of the keep lists that the vault has."""
    found: dict[bytes, int] = {}
    for some in portions(digests):
        rows = ask(connection, [(_KEEPS_BY_DIGEST, {"vault": vault, "some": some})])[0]
        found.update((row.digest, row.number) for row in rows)
    return found


def packs_kept(connection: Connection, keeps: Iterable[int]) -> dict[int, list[int]]:
    """Keep list -> its packs, by numbers."""
    found: dict[int, list[int]] = {}
    for some in portions(keeps):
        for keep, pack in ask(connection, [(_KEPT, {"some": some})])[0]:
            found.setdefault(keep, []).append(pack)
    return found


def add_keep_lists(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, bytes], int]:
    """Inserts rows (vault, digest); their numbers."""
    numbers = add_rows(connection, keep_lists, rows)
    return {(row["vault"], row["digest"]): number for row, number in zip(rows, numbers, strict=True)}


def add_keep_packs(connection: Connection, rows: Sequence[Mapping[str, int]]) -> None:
    post_rows(connection, keep_packs, rows)


def drop_unused_keep_lists(connection: Connection, keeps: Iterable[int]) -> set[int]:
    """Of ``keeps``, deletes those that no ref and no kept version names; the packs that they kept."""
    let_go: set[int] = set()
    for some in portions(keeps):
        unused = list(
            connection.execute(
                select(keep_lists.c.number).where(
                    keep_lists.c.number.in_(some),
                    ~exists().where(refs.c.keep == keep_lists.c.number),
                    ~exists().where(ref_history.c.keep == keep_lists.c.number),
                )
            ).scalars()
        )
        if unused:
            chosen = keep_packs.c.keep.in_(unused)
            let_go.update(connection.execute(select(keep_packs.c.pack).where(chosen)).scalars())
            connection.execute(delete(keep_packs).where(chosen))
            connection.execute(delete(keep_lists).where(keep_lists.c.number.in_(unused)))
    return let_go


# --- the life of a pack -----------------------------------------------------------------------------------------------


def lapsed_leases(connection: Connection, now: int, limit: int) -> list[int]:
    """Packs whose lease ended before ``now`` (slow seconds), but those that wait for a device of their vault."""
    lapsed = (packs.c.lease_until.is_not(None), packs.c.lease_until < now, packs.c.adopted == 0)
    found = select(packs.c.number).where(*lapsed).limit(limit)
    return list(connection.execute(found).scalars())


def end_leases(connection: Connection, numbers: Iterable[int]) -> None:
    for some in portions(numbers):
        connection.execute(update(packs).where(packs.c.number.in_(some)).values(lease_until=None))


def _held() -> Any:
    """No ref, kept version or lease may be without its packs: keep lists exist as long as one of them names them.

    A pack that was adopted may hold refs that are not committed (again) yet.
    """
    return or_(
        packs.c.lease_until.is_not(None), packs.c.adopted == 1, exists().where(keep_packs.c.pack == packs.c.number)
    )


def release_unheld(connection: Connection, numbers: Iterable[int]) -> int:
    """Of ``numbers``, leased and live packs that nothing holds become released; how many."""
    released = 0
    for some in portions(numbers):
        released += connection.execute(
            update(packs)
            .where(packs.c.number.in_(some), packs.c.state.in_((PackState.LEASED, PackState.LIVE)), ~_held())
            .values(state=PackState.RELEASED)
        ).rowcount
    return released


def trash_released(connection: Connection, limit: int) -> list[Any]:
    """Released packs become trashed, if still nothing holds them; rows number, digest, vault, size."""
    found = connection.execute(
        select(packs.c.number, packs.c.digest, packs.c.vault, packs.c.size)
        .where(packs.c.state == PackState.RELEASED, packs.c.state > 2, ~_held())
        .limit(limit)
    ).all()
    for some in portions(row.number for row in found):
        connection.execute(update(packs).where(packs.c.number.in_(some)).values(state=PackState.TRASHED))
    return list(found)


def forget_trashed(connection: Connection, limit: int) -> int:
    """Trashed packs of which no node has a copy any more become gone; how many."""
    found = list(
        connection.execute(
            select(packs.c.number)
            .where(
                packs.c.state == PackState.TRASHED,
                packs.c.state > 2,
                ~exists().where(placements.c.pack == packs.c.number),
            )
            .limit(limit)
        ).scalars()
    )
    for some in portions(found):
        connection.execute(update(packs).where(packs.c.number.in_(some)).values(state=PackState.GONE))
    return len(found)
