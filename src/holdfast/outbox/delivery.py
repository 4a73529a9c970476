"""The loop that delivers: asks ``next_step`` what to do, claims, runs the delivery functions, writes down the outcomes.

All decisions are in ``next_step`` and ``outcomes``; here is only the I/O. Any number of processes may run one on the
same queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from holdfast import logs
from holdfast.clock import Clock, Randomness
from holdfast.errors import Corrupt, HoldfastError, NoSpace, TooLarge, Unavailable
from holdfast.outbox.entry import Entry, State
from holdfast.outbox.next_step import (
    Change,
    DeliveryState,
    Lane,
    Limits,
    Settled,
    begun,
    next_step,
    settled,
    woken,
)
from holdfast.outbox.outcomes import Conflicted, Damaged, Deferred, Delivered, Outcome
from holdfast.outbox.queue.queue import Queue

Deliver = Callable[[Entry], Awaitable[Outcome]]

_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """One try that ended: ``change`` says what became of the entry, ``reason`` why it was not delivered."""

    entry: Entry
    change: Change
    reason: str = ""


@dataclass(slots=True)
class Summary:
    """What a flush came to, by outcome; ``waiting`` is what is still to be delivered."""

    delivered: int = 0
    deferred: int = 0
    conflicts: int = 0
    rejected: int = 0
    abandoned: int = 0
    damaged: int = 0
    waiting: int = 0
    reasons: list[str] = field(default_factory=list)
    """Different reasons of what was not delivered, at most ``REASONS_MAX``."""


REASONS_MAX = 10
REFILL = 0.75
"""New entries are claimed when so much of what was under way is left: several for one look at the queue."""
_COUNTED = {
    Change.REMOVE: "delivered",
    Change.DEFER: "deferred",
    Change.CONFLICT: "conflicts",
    Change.REJECT: "rejected",
    Change.ABANDON: "abandoned",
    Change.DAMAGE: "damaged",
}


class Delivery:
    """One per process and queue. Use from one event loop; ``run`` is entered once at a time."""

    def __init__(self, queue: Queue, deliver: Mapping[str, Deliver], *, clock: Clock, randomness: Randomness) -> None:
        """``deliver``: for each kind that this process can deliver. A function may be called many times at once, for
        entries of different keys; errors that it raises defer the entry."""
        self._queue = queue
        self._deliver = dict(deliver)
        self._clock = clock
        self._randomness = randomness
        self._limits = Limits(queue.settings.parallel, queue.settings.targets_parallel)
        self._state = DeliveryState()
        self._wanted = asyncio.Event()
        self._running: dict[asyncio.Task[Done | None], int] = {}
        self._busy = asyncio.Lock()
        self._swept = False

    async def hasten(self) -> None:
        """A person asks to try again now whatever this process can deliver."""
        await self._queue.tries.hasten(self._deliver)
        self.wake()

    def wake(self) -> None:
        """Look now: there is a new entry, or a person asks. Never blocks."""
        woken(self._state, list(self._state.lanes))
        self._wanted.set()

    async def run(self, *, forever: bool) -> AsyncGenerator[Done, None]:
        """Delivers, and gives each try that ended. With ``forever`` until cancelled; else until nothing more is due.

        A second caller waits for the first. Ended early, entries under way are given back untried.
        """
        async with self._busy:
            try:
                async with aclosing(self._run(forever)) as tries:
                    async for done in tries:
                        yield done
            finally:
                await self._stop()

    async def _run(self, forever: bool) -> AsyncGenerator[Done, None]:
        await self._begin()
        looked = renewed = self._clock.monotonic()
        wait, level = 0.0, 0
        while True:
            now = self._clock.monotonic()
            if now - looked >= self._queue.settings.lease_s / 4:
                looked = now
                await self._queue.tries.release_dead()
            if now - renewed >= self._queue.settings.lease_s / 4:
                renewed = now
                await self._queue.tries.renew(list(self._running.values()))
            if wait <= 0 or self._wanted.is_set() or len(self._running) <= level * REFILL:
                self._wanted.clear()
                wait = await self._advance()
                level = len(self._running)
            if not self._running and not forever and wait > 0:
                return
            began = self._clock.monotonic()
            finished = await self._next(min(wait, self._queue.settings.lease_s / 4) if self._running else wait)
            wait -= self._clock.monotonic() - began
            for task in finished:
                self._running.pop(task, None)
                done = task.result()
                if done is not None:
                    yield done

    async def _begin(self) -> None:
        await self._queue.tries.release_dead()
        woken(self._state, list(self._state.lanes))
        if not self._swept:
            self._swept = True
            orphans = await self._queue.sweep()
            if orphans:
                _log.info("outbox_orphans_removed", count=orphans)

    async def _advance(self) -> float:
        """Begins what may begin; seconds until the next look."""
        full = len(self._running) >= self._limits.parallel * self._limits.targets_parallel
        views = {} if full else await self._queue.tries.lanes(self._deliver, self._limits.parallel)
        waiting = bool(views or self._running) or any(
            total.entries for total in await self._queue.totals() if total.state in (State.WAITING, State.DEFERRED)
        )
        now = self._clock.monotonic()
        begins, look = next_step(self._state, views, waiting, now, self._limits)
        for begin in begins:
            entries = await self._queue.tries.claim(begin.lane, begin.count)
            begun(self._state, begin.lane, len(entries))
            for entry in entries:
                task = asyncio.get_running_loop().create_task(self._try(begin.lane, entry))
                self._running[task] = entry.sequence
        if begins and not self._running:
            return 0.0  # all of it was damaged, or another process was faster: look again
        return look.seconds

    async def _next(self, seconds: float) -> set[asyncio.Task[Done | None]]:
        """Waits until something ends, somebody wakes us or the time has passed."""
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            done, _ = await asyncio.wait({timer, wanted, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            wanted.cancel()
        return {task for task in self._running if task in done}

    async def _try(self, lane: Lane, entry: Entry) -> Done | None:
        outcome = await self._outcome(entry)
        while True:
            change = settled(
                self._state,
                lane,
                entry.delivery_class,
                entry.tries,
                entry.reached,
                outcome,
                self._clock.monotonic(),
                self._randomness,
            )
            try:
                if not await self._queue.tries.settle(entry, lane, change, outcome):
                    _log.warning("outbox_claim_lost", sequence=entry.sequence)
                    return None
            except (NoSpace, TooLarge) as error:
                if not isinstance(outcome, Conflicted) or outcome.content is None:
                    raise
                reason = f"{outcome.reason}; theirs could not be kept here: {error.detail}"
                outcome = Conflicted(reason, outcome.facts, outcome.absent)
            except Unavailable as error:
                if not isinstance(outcome, Conflicted):
                    raise
                outcome = Deferred(error.detail, reached=False, target=True)  # their content could not be read
            else:
                return self._done(entry, change, outcome)
            begun(self._state, lane, 1)

    async def _outcome(self, entry: Entry) -> Outcome:
        try:
            return await self._deliver[entry.kind](entry)
        except Corrupt as error:
            return Damaged(error.detail)
        except HoldfastError as error:
            return Deferred(error.detail, reached=False, target=isinstance(error, Unavailable))
        except Exception as error:
            _log.error("outbox_delivery_failed", sequence=entry.sequence, kind=entry.kind, exc_info=True)
            return Deferred(f"the delivery failed: {type(error).__name__}", reached=False)

    def _done(self, entry: Entry, change: Settled, outcome: Outcome) -> Done:
        if isinstance(outcome, Delivered):
            return Done(entry, change.change)
        log = _log.info if change.change is Change.DEFER else _log.warning
        log("outbox_not_delivered", sequence=entry.sequence, change=change.change.value, reason=outcome.reason)
        return Done(entry, change.change, outcome.reason)

    async def _stop(self) -> None:
        tasks, sequences = list(self._running), list(self._running.values())
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane, known in self._state.lanes.items():
            self._state.lanes[lane] = replace(known, in_flight=0)
        await self._queue.tries.unclaim(sequences)


def count(summary: Summary, done: Done) -> None:
    """Adds one try to a summary."""
    name = _COUNTED[done.change]
    setattr(summary, name, getattr(summary, name) + 1)
    if done.reason and done.reason not in summary.reasons and len(summary.reasons) < REASONS_MAX:
        summary.reasons.append(done.reason)
