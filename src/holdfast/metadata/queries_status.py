"""What is told of the whole network: counts computed when asked, never kept in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from holdfast.metadata.tables import PackState, nodes, packs, placements

_COUNTED = (PackState.LEASED, PackState.LIVE)


class CopiesRow(NamedTuple):
    """``packs`` packs of ``bytes`` in all that have ``live`` live copies of ``target``."""

    live: int
    target: int
    packs: int
    bytes: int


def highest_pack(connection: Connection) -> int:
    """The highest number of a pack: about how many there are, without counting."""
    return int(connection.execute(select(func.coalesce(func.max(packs.c.number), 0))).scalar_one())


def packs_by_copies(connection: Connection, absent_nodes: Sequence[int]) -> list[CopiesRow]:
    """Leased and live packs grouped by live copies and target; copies on ``absent_nodes`` are not live.

    Few nodes are absent: asking which copies are not on them is three times as fast as asking which are on the others.
    """
    held = select(func.count()).select_from(placements).where(placements.c.pack == packs.c.number)
    if absent_nodes:
        held = held.where(placements.c.node.not_in(absent_nodes))
    each = (
        select(packs.c.target, packs.c.size, held.correlate(packs).scalar_subquery().label("live"))
        .where(packs.c.state.in_(_COUNTED))
        .subquery()
    )
    rows: Sequence[Any] = connection.execute(
        select(each.c.live, each.c.target, func.count(), func.sum(each.c.size)).group_by(each.c.live, each.c.target)
    ).all()
    return [CopiesRow(*map(int, row)) for row in rows]


def fewest_domains(connection: Connection, absent_nodes: Sequence[int]) -> int:
    """On how many domains the live copies lie of the pack that lies on the fewest; 0 without a live copy anywhere."""
    each = (
        select(func.count(nodes.c.domain.distinct()).label("domains"))
        .select_from(packs)
        .join(placements, placements.c.pack == packs.c.number)
        .join(nodes, nodes.c.number == placements.c.node)
        .where(packs.c.state.in_(_COUNTED))
        .group_by(packs.c.number)
    )
    if absent_nodes:
        each = each.where(placements.c.node.not_in(absent_nodes))
    found = each.subquery()
    return int(connection.execute(select(func.coalesce(func.min(found.c.domains), 0))).scalar_one())


def packs_by_node(connection: Connection) -> dict[int, tuple[int, int]]:
    """Node -> (packs, bytes) placed on it."""
    rows = connection.execute(
        select(placements.c.node, func.count(), func.sum(packs.c.size))
        .join(packs, packs.c.number == placements.c.pack)
        .group_by(placements.c.node)
    )
    return {int(node): (int(count), int(size)) for node, count, size in rows}
