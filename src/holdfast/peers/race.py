"""A hedged race: the likeliest source starts, the next starts beside it when it is late, the first answer wins.

``next_start`` is the whole rule, a plain function of what is known and the time. ``Race`` runs it: lanes may enter
while it runs, losers are cancelled, and a lane that fails lets the next one start at once (docs/design.md, 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from holdfast.errors import Denied, HoldfastError, NotFound, Unauthorized

HEDGE_S = 0.02
"""The least time that a source gets for its first byte before the next one starts beside it."""
PATIENCE_S_MAX = 0.25
"""The longest that a peer's usual time may hold up the next source."""
HEAD_START_S = 0.015
"""How long sources that cost nothing may be looked for before the last ones start. Below ``HEDGE_S``, so that a miss
costs less than 20 ms more than the origin alone."""

UNHURRIED_S = 1.0
"""Patience and head start where nobody waits for the first byte: a second source costs the links a second body."""
TICK_S = 1e-6
"""Moments closer than this are one: a timer may fire a rounding error too early."""

Tier: TypeAlias = Literal[0, 1, 2]
"""In this order sources start: a peer that has it, the peer whose part it is to ask the origin, the origin itself."""
PEER: Final = 0
OWNER: Final = 1
ORIGIN: Final = 2

T = TypeVar("T")


def peer_patience(usual_s: float | None) -> float:
    """Seconds that a peer whose usual time is known (or not) has the race for itself."""
    return min(max(HEDGE_S, usual_s or 0.0), PATIENCE_S_MAX)


@dataclass(frozen=True, slots=True)
class Entrant:
    """What the rule knows of a source. ``patience_s``: how long it runs alone."""

    name: str
    tier: Tier
    patience_s: float


def next_start(
    now: float,
    began: float,
    waiting: Sequence[Entrant],
    running: Sequence[tuple[Entrant, float]],
    *,
    more: bool,
    head_start_s: float = HEAD_START_S,
) -> tuple[int | None, float | None]:
    """(index in ``waiting`` of the source to start now, when to look again); each None if there is none.

    ``running``: with the moment of their start, oldest first. ``more``: peers may still enter. All times are seconds on
    one clock. ``head_start_s``: how long the last ones wait for peers that may enter.
    """
    if not waiting:
        return None, None
    index = min(range(len(waiting)), key=lambda at: waiting[at].tier)
    tier = waiting[index].tier
    if not running:
        at = began + head_start_s if tier != PEER and more else now
    elif tier == PEER and all(entrant.tier != PEER for entrant, _ in running):
        at = now
    else:
        last, started = running[-1]
        at = started + last.patience_s
        if len(running) == 1 and last.tier == PEER and last.patience_s <= HEDGE_S:
            at = max(began + head_start_s, started)
    return (index, None) if at <= now + TICK_S else (None, at)


@dataclass(frozen=True, slots=True)
class Lane(Generic[T]):
    """A source in a race, as it is seen now. ``run`` answers or raises; cancelled, it leaves nothing open."""

    entrant: Callable[[], Entrant]
    run: Callable[[], Awaitable[T]]


class Race(Generic[T]):
    """One race; ``run`` once. ``enter`` and ``settle`` may be called before and while it runs."""

    def __init__(self, *, discard: Callable[[T], Awaitable[None]], head_start_s: float = HEAD_START_S) -> None:
        """``discard`` gets answers that came too late to win."""
        self._head_start_s = head_start_s
        self._discard = discard
        self._waiting: list[Lane[T]] = []
        self._running: dict[asyncio.Task[T], tuple[Lane[T], float]] = {}
        self._more = True
        self._later = False
        self._changed = asyncio.Event()
        self._began = asyncio.get_running_loop().time()
        self.failures: list[tuple[Tier, HoldfastError]] = []
        """Of lanes that ran, and of peers that could not say whether they have it."""

    def enter(self, lane: Lane[T]) -> None:
        self._waiting.append(lane)
        self._changed.set()

    def hurry(self) -> None:
        """From now on somebody waits for the first byte."""
        self._head_start_s = min(self._head_start_s, HEAD_START_S)
        self._changed.set()

    def settle(self, *, later: bool = False) -> None:
        """No more lanes will enter; with ``later`` some still may, but nobody is held up for them."""
        self._more, self._later = False, later
        self._changed.set()

    async def run(self) -> T:
        """The first answer. If all fail: NotFound if the origin or everybody says so, else the last other failure."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                look_at = self._start_due(loop.time())
                if not (self._running or self._waiting or self._more or self._later):
                    raise self._verdict()
                changed = loop.create_task(self._changed.wait())
                try:
                    await asyncio.wait(
                        {*self._running, changed},
                        timeout=None if look_at is None else max(look_at - loop.time(), 0.0),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    changed.cancel()
                self._changed.clear()
                for task in [task for task in self._running if task.done()]:
                    error = task.exception()
                    lane, _ = self._running.pop(task)
                    if error is None:
                        return task.result()
                    if not isinstance(error, HoldfastError):
                        raise error
                    self.failures.append((lane.entrant().tier, error))
        finally:
            await self._cancel()

    def _start_due(self, now: float) -> float | None:
        while True:
            running = [(lane.entrant(), started) for lane, started in self._running.values()]
            index, look_at = next_start(
                now, self._began, [lane.entrant() for lane in self._waiting], running,
                more=self._more, head_start_s=self._head_start_s,
            )  # fmt: skip
            if index is None:
                return look_at
            lane = self._waiting.pop(index)
            task = asyncio.ensure_future(lane.run())
            self._running[task] = (lane, now)

    def _verdict(self) -> HoldfastError:
        others = [error for tier, error in self.failures if not _has_it_not(tier, error)]
        if not others or any(tier == ORIGIN and isinstance(error, NotFound) for tier, error in self.failures):
            return NotFound("nobody has it")
        return others[-1]

    async def _cancel(self) -> None:
        tasks = list(self._running)
        self._running.clear()
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                await self._discard(outcome)


def _has_it_not(tier: Tier, error: HoldfastError) -> bool:
    """A peer that does not serve us is, for whoever asks us, one that has it not; an origin's refusal is told."""
    return isinstance(error, NotFound) or (tier != ORIGIN and isinstance(error, Denied | Unauthorized))
