"""What an operator says of nodes and of repair: drain, remove, maintenance; now, pause, resume."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from holdfast.auth.identity import Id
from holdfast.coordinator.nodes import Nodes
from holdfast.coordinator.registry import Node
from holdfast.coordinator.repair.loop import Repair
from holdfast.coordinator.repair.plan import Net, Shape, assess
from holdfast.coordinator.repair.words import RepairWords
from holdfast.coordinator.state import State
from holdfast.coordinator.status import Counts
from holdfast.errors import Conflict, NotFound
from holdfast.metadata import queries_repair
from holdfast.metadata.tables import NEVER_READ
from holdfast.wire import messages as m
from holdfast.wire.serve import Call


class Orders:
    """Handlers."""

    def __init__(self, state: State, nodes: Nodes, repair: Repair, words: RepairWords, counts: Counts) -> None:
        self._state = state
        self._nodes = nodes
        self._repair = repair
        self._words = words
        self._counts = counts

    async def drain(self, call: Call, request: m.DrainOrder) -> m.NodeInfo:
        """Empties a node: its packs are copied elsewhere, then trimmed there. By an operator or the node itself."""
        node = self._node(call, itself=True)
        await self._say(node, "draining" if request.drain else "")
        return await self._nodes.info(node)

    async def maintenance(self, call: Call, request: m.MaintenanceOrder) -> m.NodeInfo:
        """Its silence means nothing for that long (but at the floor)."""
        node = self._node(call)
        until = self._state.slow_now() + request.seconds
        await self._say(node, "maintenance" if request.seconds else "", until if request.seconds else 0.0)
        return await self._nodes.info(node)

    async def remove(self, call: Call, request: m.RemoveOrder) -> m.Empty:
        """Forgets a node and its copies. Conflict while packs have too few copies without it, unless forced.

        ``now``: Conflict only while a pack has no live copy elsewhere.
        """
        state = self._state
        node = self._node(call, itself=not request.force)
        net = self._repair.net()
        without = replace(net, holders={number: one for number, one in net.holders.items() if number != node.number})
        if not request.force:
            packs = await state.database.run(_needed, node.number, without, request.now)
            if packs and request.now:
                raise Conflict(
                    f"{packs} packs have no live copy but that of {node.name}: they would be lost. Let it leave "
                    "without --now, or an operator says: holdfast nodes remove --force",
                    packs=packs,
                )
            if packs:
                raise Conflict(
                    f"{packs} packs have too few copies without {node.name}: empty it first (holdfast nodes drain), "
                    "or say --force",
                    packs=packs,
                )
        packs_then = await state.database.run(_remove, node.number)
        node.word, node.dirty = "removed", True
        state.beliefs.of_node.pop(node.number, None)
        node.read_sequence = NEVER_READ
        self._repair.reconsider(packs_then)
        state.changed(True)
        self._counts.forget()
        return m.Empty()

    async def repair(self, call: Call, request: m.RepairOrder) -> m.RepairState:
        """``now``, ``pause`` or ``resume``; a pause outlasts restarts."""
        self._state.access.require_operator(call.caller)
        if request.order == "now":
            self._repair.now()
        if request.order in ("pause", "resume"):
            paused = request.order == "pause"
            await self._state.database.run(queries_repair.set_repair, "paused" if paused else "")
            self._state.repair_paused = paused
        await self._repair.unit()
        return self._words.state()

    async def _say(self, node: Node, word: str, until: float = 0.0) -> None:
        await self._state.database.run(queries_repair.set_word, node.number, word, until)
        node.word, node.word_until, node.dirty = word, until, True
        self._repair.reconsider(set())
        self._state.changed(True)

    def _node(self, call: Call, *, itself: bool = False) -> Node:
        id_ = Id.parse(call.path["id"])
        if not (itself and call.caller == id_):
            self._state.access.require_operator(call.caller)
        node = self._state.registry.get(id_)
        if node is None:
            raise NotFound("no such node: holdfast nodes shows those there are")
        return node


def _needed(connection: Connection, node: int, without: Net, now: bool) -> int:
    """How many packs of ``node`` have fewer copies than they should if it is not counted; ``now``: no copy."""
    needs = (assess(Shape(*row), without) for row in queries_repair.affected(connection, [node]))
    return sum(1 for need in needs if need is not None and (not now or need.live == 0))


def _remove(connection: Connection, node: int) -> set[int]:
    queries_repair.set_word(connection, node, "removed", 0.0)
    queries_repair.read_up_to(connection, node, 0)
    return set(queries_repair.forget_node(connection, node))
