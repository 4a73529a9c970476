"""What is told of the whole network: counts computed when asked, never kept in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Connection, and_, func, select

from holdfast.metadata.tables import PackState, nodes, packs, placements

_COUNTED = (PackState.LEASED, PackState.LIVE)

Span: TypeAlias = tuple[int, int]
"""Packs with a number above the first and up to the second: what looks at every pack does so in many transactions."""

ALL: Span = (0, 1 << 62)


class CopiesRow(NamedTuple):
    """``packs`` packs of ``bytes`` in all that have ``live`` live copies of ``target``."""

    live: int
    target: int
    packs: int
    bytes: int


def highest_pack(connection: Connection) -> int:
    """The highest number of a pack: about how many there are, without counting."""
    return int(connection.execute(select(func.coalesce(func.max(packs.c.number), 0))).scalar_one())


def within(span: Span) -> ColumnElement[bool]:
    """Is the pack's number in ``span``?"""
    return and_(packs.c.number > span[0], packs.c.number <= span[1])


def packs_by_copies(connection: Connection, absent_nodes: Sequence[int], span: Span = ALL) -> list[CopiesRow]:
    """Leased and live packs grouped by live copies and target; copies on ``absent_nodes`` are not live.

    Few nodes are absent: asking which copies are not on them is three times as fast as asking which are on the others.
    """
    held = select(func.count()).select_from(placements).where(placements.c.pack == packs.c.number)
    if absent_nodes:
        held = held.where(placements.c.node.not_in(absent_nodes))
    each = (
        select(packs.c.target, packs.c.size, held.correlate(packs).scalar_subquery().label("live"))
        .where(packs.c.state.in_(_COUNTED), within(span))
        .subquery()
    )
    rows: Sequence[Any] = connection.execute(
        select(each.c.live, each.c.target, func.count(), func.sum(each.c.size)).group_by(each.c.live, each.c.target)
    ).all()
    return [CopiesRow(*map(int, row)) for row in rows]


def fewest_domains(connection: Connection, absent_nodes: Sequence[int], span: Span = ALL) -> int | None:
    """On how many domains the live copies lie of the pack that lies on the fewest; None without any live copy."""
    each = (
        select(func.count(nodes.c.domain.distinct()).label("domains"))
        .select_from(packs)
        .join(placements, placements.c.pack == packs.c.number)
        .join(nodes, nodes.c.number == placements.c.node)
        .where(packs.c.state.in_(_COUNTED), within(span))
        .group_by(packs.c.number)
    )
    if absent_nodes:
        each = each.where(placements.c.node.not_in(absent_nodes))
    found = each.subquery()
    fewest: int | None = connection.execute(select(func.min(found.c.domains))).scalar_one()
    return fewest


def packs_by_node(connection: Connection, span: Span = ALL) -> dict[int, tuple[int, int]]:
    """Node -> (packs, bytes) placed on it."""
    rows = connection.execute(
        select(placements.c.node, func.count(), func.sum(packs.c.size))
        .join(packs, packs.c.number == placements.c.pack)
        .where(within(span))
        .group_by(placements.c.node)
    )
    return {int(node): (int(count), int(size)) for node, count, size in rows}
