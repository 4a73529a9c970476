"""What is told of the whole network: counts computed when asked, never kept in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from holdfast.metadata.tables import PackState, packs, placements

_COUNTED = (PackState.LEASED, PackState.LIVE)


class CopiesRow(NamedTuple):
    """``packs`` packs of ``bytes`` in all that have ``live`` live copies of ``target``."""

    live: int
    target: int
    packs: int
    bytes: int


def packs_by_copies(connection: Connection, live_nodes: Sequence[int]) -> list[CopiesRow]:
    """Leased and live packs grouped by live copies and target."""
    live = func.count(placements.c.node).label("live")
    each = (
        select(packs.c.target, packs.c.size, live)
        .select_from(packs)
        .outerjoin(placements, (placements.c.pack == packs.c.number) & placements.c.node.in_(live_nodes))
        .where(packs.c.state.in_(_COUNTED))
        .group_by(packs.c.number, packs.c.target, packs.c.size)
        .subquery()
    )
    rows: Sequence[Any] = connection.execute(
        select(each.c.live, each.c.target, func.count(), func.sum(each.c.size)).group_by(each.c.live, each.c.target)
    ).all()
    return [CopiesRow(*map(int, row)) for row in rows]


def packs_by_node(connection: Connection) -> dict[int, tuple[int, int]]:
    """Node -> (packs, bytes) placed on it."""
    rows = connection.execute(
        select(placements.c.node, func.count(), func.sum(packs.c.size))
        .join(packs, packs.c.number == placements.c.pack)
        .group_by(placements.c.node)
    )
    return {int(node): (int(count), int(size)) for node, count, size in rows}
