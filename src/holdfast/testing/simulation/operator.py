"""Who gives orders in a simulation: nodes emptied or in maintenance, another policy, repair begun, paused, resumed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast import errors
from holdfast.assemble import NetworkView
from holdfast.auth.identity import Id
from holdfast.clock import Randomness
from holdfast.testing.grid import Grid
from holdfast.testing.simulation.judge import Judge

T = TypeVar("T")


class Operator:
    """One for a network."""

    def __init__(self, grid: Grid, judge: Judge) -> None:
        self._emptied: str | None = None
        self._grid = grid
        self._judge = judge
        self._paused = False

    async def operate(self) -> None:
        """Orders now and then. At most one node is emptied at a time, so that there is always room for all copies."""
        chance = self._grid.loop.randomness("operator")
        orders = [self.drain, self.maintain, self.policy, self.repair_now, self.pause_or_resume]
        while self._judge.left > 0:
            await asyncio.sleep(60.0 + 240.0 * chance.random())
            self._judge.left -= 1
            order = orders[chance.below(len(orders))]
            async with await self._grid.view() as view:
                await self._judge.hear(order.__name__, order(view, chance))

    async def calm(self) -> None:
        """Takes back what would keep the network from being whole."""
        async with await self._grid.view() as view:
            await _insist(lambda: view.order_repair("resume"))
            if self._emptied is not None:
                emptied = self._emptied
                node = await _insist(lambda: self._id(view, emptied))
                await _insist(lambda: view.drain_node(node, drain=False))

    async def drain(self, view: NetworkView, chance: Randomness) -> None:
        if self._emptied is None:
            self._emptied = self._grid.nodes[chance.below(len(self._grid.nodes))].name
            await view.drain_node(await self._id(view, self._emptied))
        else:
            await view.drain_node(await self._id(view, self._emptied), drain=False)
            self._emptied = None

    async def maintain(self, view: NetworkView, chance: Randomness) -> None:
        name = self._grid.nodes[chance.below(len(self._grid.nodes))].name
        if name != self._emptied:  # one word replaces the other
            await view.maintain_node(await self._id(view, name), 600.0 * chance.random())

    async def policy(self, view: NetworkView, chance: Randomness) -> None:
        with contextlib.suppress(errors.Conflict):  # its own first try, whose answer was lost
            await view.set_policy(1 + chance.below(min(4, len(self._grid.nodes) - 3)))

    async def repair_now(self, view: NetworkView, chance: Randomness) -> None:
        await view.order_repair("now")

    async def pause_or_resume(self, view: NetworkView, chance: Randomness) -> None:
        self._paused = not self._paused
        await view.order_repair("pause" if self._paused else "resume")

    async def _id(self, view: NetworkView, name: str) -> Id:
        return next(node.id for node in await view.nodes() if node.name == name)


async def _insist(ask: Callable[[], Awaitable[T]]) -> T:
    """An order is given until it is taken: a node that has just started needs a moment."""
    for _ in range(20):
        with contextlib.suppress(errors.Unavailable):
            return await ask()
        await asyncio.sleep(5.0)
    return await ask()
