"""Queries for healing: who lacks copies, who has too many, what a node is believed to hold. Each in a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, String, bindparam, cast, delete, func, insert, select, update

from holdfast.metadata.queries_packs import portions
from holdfast.metadata.queries_status import ALL, Span, within
from holdfast.metadata.tables import PackState, beliefs, meta, nodes, packs, placements

_HELD = (PackState.LEASED, PackState.LIVE)
Shapes: TypeAlias = Iterator[tuple[int, int, int, tuple[int, ...]]]
"""(pack, target, size, the nodes it is placed on)."""

# The nodes of a pack come as one text: five times fewer rows, which is what reading many packs costs.
_ON = func.aggregate_strings(cast(placements.c.node, String), ",")
_SHAPES = (
    select(packs.c.number, packs.c.target, packs.c.size, _ON)
    .outerjoin(placements, placements.c.pack == packs.c.number)
    .where(packs.c.state.in_(_HELD))
    .group_by(packs.c.number, packs.c.target, packs.c.size)
)


def _shapes(rows: Iterable[Any]) -> Shapes:
    known: dict[str | None, tuple[int, ...]] = {None: ()}  # few different ones, however many packs
    for number, target, size, on in rows:
        places = known.get(on)
        if places is None:
            places = known[on] = tuple(sorted(map(int, on.split(","))))
        yield number, target, size, places


def affected(connection: Connection, on: Sequence[int]) -> Shapes:
    """Leased and live packs with a copy on one of the nodes ``on``."""
    some = select(placements.c.pack).where(placements.c.node.in_(on))
    return _shapes(connection.execute(_SHAPES.where(packs.c.number.in_(some))))


def short(connection: Connection, span: Span = ALL) -> list[int]:
    """Leased and live packs with fewer placements than their target, wherever these are. Reads all of ``span``."""
    found = (
        select(packs.c.number)
        .outerjoin(placements, placements.c.pack == packs.c.number)
        .where(packs.c.state.in_(_HELD), within(span))
        .group_by(packs.c.number, packs.c.target)
        .having(func.count(placements.c.node) < packs.c.target)
    )
    return list(connection.execute(found).scalars())


def crowded(connection: Connection, span: Span = ALL) -> list[int]:
    """Leased and live packs with more placements than their target. Reads all of ``span``."""
    found = (
        select(packs.c.number)
        .join(placements, placements.c.pack == packs.c.number)
        .where(packs.c.state.in_(_HELD), within(span))
        .group_by(packs.c.number, packs.c.target)
        .having(func.count(placements.c.node) > packs.c.target)
    )
    return list(connection.execute(found).scalars())


def shapes(connection: Connection, numbers: Iterable[int]) -> Shapes:
    """Those of ``numbers`` that are leased or live."""
    for some in portions(numbers):
        yield from _shapes(connection.execute(_SHAPES.where(packs.c.number.in_(some))))


def trashed_places(connection: Connection, on: Sequence[int], limit: int) -> list[Any]:
    """Copies of trashed packs on the nodes ``on``: number, digest, vault, size, node, sequence."""
    found = (
        select(packs.c.number, packs.c.digest, packs.c.vault, packs.c.size, placements.c.node, placements.c.sequence)
        .join(placements, placements.c.pack == packs.c.number)
        .where(packs.c.state == PackState.TRASHED, packs.c.state > 2, placements.c.node.in_(on))
        .limit(limit)
    )
    return list(connection.execute(found))


# --- one node ---------------------------------------------------------------------------------------------------------


def believed(connection: Connection, node: int, after: int, limit: int) -> list[Any]:
    """What the node is on record with: pack, digest, sequence, of packs in any state above ``after``, ascending."""
    return list(
        connection.execute(
            select(placements.c.pack, packs.c.digest, placements.c.sequence)
            .join(packs, packs.c.number == placements.c.pack)
            .where(placements.c.node == node, placements.c.pack > after)
            .order_by(placements.c.pack)
            .limit(limit)
        )
    )


def save_beliefs(connection: Connection, sums: Mapping[int, bytes]) -> None:
    """Node -> what it is believed to hold, for the next start."""
    connection.execute(delete(beliefs))
    if sums:
        connection.execute(insert(beliefs), [{"node": node, "sums": saved} for node, saved in sums.items()])


def take_beliefs(connection: Connection) -> dict[int, bytes]:
    """What a clean stop left; nothing is left then, because from now on only memory follows the placements."""
    found = {row.node: row.sums for row in connection.execute(select(beliefs))}
    connection.execute(delete(beliefs))
    return found


def sequences(connection: Connection, node: int, numbers: Iterable[int]) -> dict[int, int]:
    """Pack -> write sequence of its copy on ``node``, of those that are on record."""
    found: dict[int, int] = {}
    for some in portions(numbers):
        rows = connection.execute(
            select(placements.c.pack, placements.c.sequence).where(
                placements.c.node == node, placements.c.pack.in_(some)
            )
        )
        found.update((row.pack, row.sequence) for row in rows)
    return found


def packs_of_node(connection: Connection, node: int) -> list[int]:
    """Packs with a copy on ``node``, in any state."""
    return list(connection.execute(select(placements.c.pack).where(placements.c.node == node)).scalars())


def forget_node(connection: Connection, node: int) -> list[int]:
    """No copy on ``node`` is on record any more; the packs that had one."""
    found = packs_of_node(connection, node)
    connection.execute(delete(placements).where(placements.c.node == node))
    return found


def read_up_to(connection: Connection, node: int, sequence: int) -> None:
    connection.execute(update(nodes).where(nodes.c.number == node).values(read_sequence=sequence))


def trash_again(connection: Connection, numbers: Iterable[int]) -> None:
    """Gone packs of which a copy has turned up are trashed once more, so that it is deleted, too."""
    for some in portions(numbers):
        connection.execute(
            update(packs)
            .where(packs.c.number.in_(some), packs.c.state == PackState.GONE)
            .values(state=PackState.TRASHED)
        )


def set_word(connection: Connection, node: int, word: str, until: float) -> None:
    """An operator's word about a node."""
    connection.execute(
        update(nodes).where(nodes.c.number == bindparam("n")).values(word=word, word_until=until), {"n": node}
    )


def set_repair(connection: Connection, word: str) -> None:
    connection.execute(update(meta).values(repair=word))


def largest_target(connection: Connection) -> int:
    """The most copies that any pack of the newest thousand asks for: about the largest ``survive``, plus one."""
    newest = select(packs.c.target).where(packs.c.state.in_(_HELD)).order_by(packs.c.number.desc()).limit(1000)
    return int(connection.execute(select(func.coalesce(func.max(newest.subquery().c.target), 1))).scalar_one())
