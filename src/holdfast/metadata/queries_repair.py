"""Queries for healing: who lacks copies, who has too many, what a node is believed to hold. Each in a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from holdfast.metadata.queries_packs import portions
from holdfast.metadata.tables import PackState, meta, nodes, packs, placements

_HELD = (PackState.LEASED, PackState.LIVE)
_OWED = select(packs.c.number, packs.c.target, packs.c.size).where(packs.c.state.in_(_HELD))


def _shapes(
    connection: Connection, owed: Sequence[Any], placed: Iterable[Any]
) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    places: dict[int, list[int]] = {}
    for pack, node in placed:
        places.setdefault(pack, []).append(node)
    for number, target, size in owed:
        yield number, target, size, tuple(places.get(number, ()))


def affected(connection: Connection, on: Sequence[int]) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Leased and live packs with a copy on one of the nodes ``on``: (pack, target, size, all its nodes)."""
    some = select(placements.c.pack).where(placements.c.node.in_(on)).distinct()
    owed = connection.execute(_OWED.where(packs.c.number.in_(some))).all()
    placed = connection.execute(select(placements.c.pack, placements.c.node).where(placements.c.pack.in_(some)))
    return _shapes(connection, owed, placed)


def short(connection: Connection) -> list[int]:
    """Leased and live packs with fewer placements than their target, wherever these are. Reads everything once."""
    found = (
        select(packs.c.number)
        .outerjoin(placements, placements.c.pack == packs.c.number)
        .where(packs.c.state.in_(_HELD))
        .group_by(packs.c.number, packs.c.target)
        .having(func.count(placements.c.node) < packs.c.target)
    )
    return list(connection.execute(found).scalars())


def crowded(connection: Connection, limit: int) -> list[int]:
    """Leased and live packs with more placements than their target. Reads everything once."""
    found = (
        select(packs.c.number)
        .join(placements, placements.c.pack == packs.c.number)
        .where(packs.c.state.in_(_HELD))
        .group_by(packs.c.number, packs.c.target)
        .having(func.count(placements.c.node) > packs.c.target)
        .limit(limit)
    )
    return list(connection.execute(found).scalars())


def shapes(connection: Connection, numbers: Iterable[int]) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Those of ``numbers`` that are leased or live: (pack, target, size, all its nodes)."""
    for some in portions(numbers):
        owed = connection.execute(_OWED.where(packs.c.number.in_(some))).all()
        placed = connection.execute(select(placements.c.pack, placements.c.node).where(placements.c.pack.in_(some)))
        yield from _shapes(connection, owed, placed)


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


def believed(connection: Connection, node: int) -> list[Any]:
    """What the node is on record with: digest, sequence, of packs in any state."""
    return list(
        connection.execute(
            select(packs.c.digest, placements.c.sequence)
            .join(placements, placements.c.pack == packs.c.number)
            .where(placements.c.node == node)
        )
    )


def believed_range(connection: Connection, node: int, low: bytes, high: bytes) -> list[Any]:
    """As ``believed``, of digests from ``low`` to ``high``, both included."""
    return list(
        connection.execute(
            select(packs.c.digest, placements.c.sequence)
            .join(placements, placements.c.pack == packs.c.number)
            .where(placements.c.node == node, packs.c.digest >= low, packs.c.digest <= high)
        )
    )


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
