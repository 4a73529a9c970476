"""Places for packs, taken ahead: so that a small put needs no request for its place (docs/design.md, Plan).

A slot is one pack's place: candidate nodes, best first, each with a put grant. Slots come in a few sizes; the stock of
a size grows with its use. Slots near their end and slots of another epoch's nodes are dropped by asking anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.auth.grants import GRANT_LIFE_S_MAX
from holdfast.auth.identity import Id
from holdfast.client.device.coordinators import Coordinators
from holdfast.errors import HoldfastError
from holdfast.wire import messages as m
from holdfast.wire import routes

SLOT_BYTES = (64 << 10, 1 << 20)
"""Sizes that are planned for small packs; larger ones are planned at the largest pack's size."""
SMALL_AHEAD_MAX = 64
LARGE_AHEAD_MAX = 4
EXPIRY_MARGIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one pack of up to ``size`` bytes: ``wanted`` receipts from ``candidates``, or at least ``least``."""

    candidates: tuple[m.PlanNode, ...]
    wanted: int
    least: int
    expires: int
    size: int


class Plans:
    """The stock for one kind of put: how many copies are asked, and whether fewer will do."""

    def __init__(
        self,
        coordinators: Coordinators,
        vault: Id,
        time: Callable[[], float],
        *,
        size_max: int,
        copies: int | None,
        allow_degraded: bool,
        heard: Callable[[], tuple[int, int]],
    ) -> None:
        """``size_max``: bytes of the largest pack; ``time``: seconds since 1970; ``heard``: the highest epoch known."""
        self._coordinators = coordinators
        self._vault = vault
        self._time = time
        self._sizes = (*(size for size in SLOT_BYTES if size < size_max), size_max)
        self._copies = copies
        self._allow_degraded = allow_degraded
        self._heard = heard
        self._stock: dict[int, deque[Slot]] = {size: deque() for size in self._sizes}
        self._ahead: dict[int, int] = dict.fromkeys(self._sizes, 1)
        self._asking: dict[int, asyncio.Task[None]] = {}

    async def take(self, size: int) -> Slot:
        """A place for a pack of ``size`` bytes. Errors of the coordinator: TooFewNodes, QuotaExceeded, Unavailable."""
        slot_size = next(found for found in self._sizes if found >= size)
        stock = self._stock[slot_size]
        while True:
            self._drop_old(stock)
            if stock:
                slot = stock.popleft()
                if len(stock) < self._ahead[slot_size] // 2:
                    self._ask_ahead(slot_size)
                return slot
            task = self._ask_ahead(slot_size)
            await asyncio.shield(task)

    async def instead(self, size: int, avoid: Sequence[Id]) -> Slot:
        """Another place for a pack whose candidates failed."""
        plan = await self._plan(size, 1, avoid)
        return plan[0]

    def warm(self, size: int) -> None:
        """Begins to take places for packs of ``size`` ahead, without waiting for them."""
        slot_size = next(found for found in self._sizes if found >= size)
        if not self._stock[slot_size]:
            self._ask_ahead(slot_size)

    def forget(self) -> None:
        """Drops the stock: nodes in it turned out to be gone."""
        for stock in self._stock.values():
            stock.clear()

    async def close(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def _ask_ahead(self, size: int) -> asyncio.Task[None]:
        task = self._asking.get(size)
        if task is None:
            task = self._asking[size] = asyncio.create_task(self._fill(size))
            task.add_done_callback(lambda done: self._asked(size, done))
        return task

    def _asked(self, size: int, task: asyncio.Task[None]) -> None:
        self._asking.pop(size, None)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; taken ahead, it is no error of anybody's yet

    async def _fill(self, size: int) -> None:
        most = LARGE_AHEAD_MAX if size == self._sizes[-1] else SMALL_AHEAD_MAX
        self._ahead[size] = count = min(self._ahead[size] * 4, most)
        try:
            slots = await self._plan(size, count, ())
        except HoldfastError:
            self._ahead[size] = 1
            if count == 1:
                raise
            slots = await self._plan(size, 1, ())  # a little room may be left where a lot is not
        self._stock[size].extend(slots)

    async def _plan(self, size: int, count: int, avoid: Sequence[Id]) -> list[Slot]:
        epoch, commit = self._heard()
        plan = await self._coordinators.ask(
            routes.PLAN,
            m.PlanRequest(
                vault=self._vault,
                items=[m.PlanItem(size=size)] * count,
                copies=self._copies,
                allow_degraded=self._allow_degraded,
                avoid=list(avoid),
                epoch=epoch,
                commit=commit,
            ),
        )
        return [
            Slot(tuple(plan.nodes[number] for number in item.candidates), plan.wanted, plan.least, plan.expires, size)
            for item in plan.items
        ]

    def _drop_old(self, stock: deque[Slot]) -> None:
        """Also what ends later than any grant may: the coordinator's clock has gone back, and nodes refuse it."""
        while stock and not EXPIRY_MARGIN_S <= stock[0].expires - self._time() <= GRANT_LIFE_S_MAX:
            stock.popleft()
