"""How long repair thinks: from the question who lacks copies to the ordered list, and to the first tasks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from bench.costs import fill
from bench.measure import Rounds, Scale
from bench.report import Figure, at_most
from holdfast.clock import SystemRandomness
from holdfast.coordinator.placement import Site
from holdfast.coordinator.repair.loop import PORTION, QUEUE_MAX, look
from holdfast.coordinator.repair.plan import Holder, Net, Shape, plan
from holdfast.metadata import queries_repair
from holdfast.metadata.database import Database
from holdfast.pool import InlinePool

_NODES = 20
_LOST = 1
_S_MAX = 2.0


def run(scale: Scale, directory: Path) -> list[Figure]:
    """``scale.packs`` shards lie on the node that is lost, and as many on each of the others."""
    return asyncio.run(_run(scale, directory / "coordinator.db"))


async def _run(scale: Scale, path: Path) -> list[Figure]:
    # Every pack lies on ``copies`` of the nodes, so that many times fewer packs make the shards.
    whole = replace(scale, nodes=_NODES, packs=scale.packs * _NODES // scale.copies)
    await fill(whole, path)
    database = await Database.open(path, InlinePool())
    listed, planned = Rounds(), Rounds()
    try:
        await database.run(lambda connection: _measure(connection, scale, listed, planned))
    finally:
        await database.close()
    what = f"{scale.packs:,} shards lost, {whole.packs:,} packs"
    return [
        Figure(f"repair, {what}: ordered list", listed.median, "s", goal=at_most(_S_MAX), rounds=tuple(listed.values)),
        Figure(f"repair, {what}: the first {PORTION} tasks", planned.median, "s", rounds=tuple(planned.values)),
    ]


def _measure(connection: Connection, scale: Scale, listed: Rounds, planned: Rounds) -> None:
    holders = {
        number: Holder(number, number.to_bytes(16, "big"), f"house {number}", live=number != _LOST)
        for number in range(1, _NODES + 1)
    }
    holders[_LOST] = replace(holders[_LOST], silence=5 * 3600.0)
    net = Net(holders, floor=2, least_wait=150.0)
    sites = [Site(number, one.store, one.domain, 1 << 50) for number, one in holders.items() if one.live]
    for _ in range(scale.repeat):
        began = time.perf_counter()
        needs, debt, _, _ = look(connection, net, [])
        listed.add(time.perf_counter() - began)
        assert len(needs) == min(scale.packs, QUEUE_MAX), "all that the node held is due"
        assert debt.due_packs == scale.packs
        began = time.perf_counter()
        first = {need.pack: need for need in needs[:PORTION]}
        shapes = [Shape(*row) for row in queries_repair.shapes(connection, first)]
        room = dict.fromkeys(holders, PORTION)
        copies = plan([(shape, first[shape.pack]) for shape in shapes], net, sites, room, SystemRandomness())
        planned.add(time.perf_counter() - began)
        assert len(copies) == len(first)
