"""What to do next: a pure function of (state, time, randomness), without any I/O.

``next_step`` looks at the targets that have something due and says what to begin and when to look again; ``settled``
takes one outcome and says what becomes of the entry and of its target. Times are seconds on the monotonic clock.

A target that could not be reached is down: one probe at a time, with growing pauses, any of its entries in turn, so
that an entry which alone fails does not speak for the others. When an answer comes again, all goes on at once.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from holdfast.clock import Randomness
from holdfast.outbox.entry import MODERATE_TRIES_MAX, DeliveryClass, State
from holdfast.outbox.outcomes import Conflicted, Damaged, Deferred, Delivered, Outcome, Rejected

Lane: TypeAlias = tuple[str, bytes]
"""(kind, tag of the target): what is down together."""

BACKOFF_S = 1.0
ENTRY_BACKOFF_S_MAX = 300.0
TARGET_BACKOFF_S_MAX = 30.0
WAITING_S = 30.0
IDLE_S = 300.0
WAKE_AFTER_S = 10.0
"""A target that was down for less wakes nobody: own pauses are short then, and a few entries that always fail must not
be tried again after each success of another."""


def backoff(tries: int, most: float, randomness: Randomness) -> float:
    """Seconds to wait after ``tries`` >= 1 failures: doubling from 1 s up to ``most``, with half of it jitter."""
    return float(min(BACKOFF_S * 2.0 ** min(tries - 1, 32), most)) * (0.5 + randomness.random() / 2)


@dataclass(frozen=True, slots=True)
class LaneState:
    """One target. ``failures`` in a row since ``down_since``, none of them answered usefully.

    Nothing begins before ``rest_until``; before ``asked_until`` not even when a person wishes it: the target said so.
    """

    in_flight: int = 0
    failures: int = 0
    down_since: float = 0.0
    rest_until: float = 0.0
    asked_until: float = 0.0

    @property
    def down(self) -> bool:
        return self.failures > 0


@dataclass(frozen=True, slots=True)
class LaneView:
    """What the queue has for a lane: entries that may begin now (capped), and when the next one becomes due."""

    due: int
    soonest_s: float | None = None  # seconds from now


@dataclass(frozen=True, slots=True)
class Begin:
    """Claim up to ``count`` due entries of the lane and deliver them."""

    lane: Lane
    count: int


@dataclass(frozen=True, slots=True)
class Look:
    """Nothing to begin before ``seconds`` have passed, something ends, or a new entry comes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    parallel: int = 16
    targets_parallel: int = 8


@dataclass(slots=True)
class DeliveryState:
    """What one process knows of its targets; lanes without news are left out."""

    lanes: dict[Lane, LaneState] = field(default_factory=dict)


def next_step(
    state: DeliveryState, views: Mapping[Lane, LaneView], waiting: bool, now: float, limits: Limits
) -> tuple[list[Begin], Look]:
    """``views``: the lanes that have entries; ``waiting``: something waits at all, also blocked or claimed."""
    begins: list[Begin] = []
    look = WAITING_S if waiting or views else IDLE_S
    busy = {lane for lane, known in state.lanes.items() if known.in_flight}
    for lane, view in sorted(views.items(), key=lambda item: _turn(state, item[0])):
        known = state.lanes.get(lane, LaneState())
        if view.soonest_s is not None:
            look = min(look, max(view.soonest_s, known.rest_until - now, 0.0))
        if view.due <= 0:
            continue
        if known.rest_until > now:
            look = min(look, known.rest_until - now)
            continue
        if lane not in busy and len(busy) >= limits.targets_parallel:
            continue
        count = min(view.due, (1 if known.down else limits.parallel) - known.in_flight)
        if count > 0:
            begins.append(Begin(lane, count))
            busy.add(lane)
    return begins, Look(look)


def _turn(state: DeliveryState, lane: Lane) -> tuple[bool, float, Lane]:
    """Lanes that work come first; among those that are down, the one that has rested longest."""
    known = state.lanes.get(lane, LaneState())
    return known.down, known.rest_until, lane


def begun(state: DeliveryState, lane: Lane, count: int) -> None:
    """``count`` entries of the lane were claimed and are under way."""
    known = state.lanes.get(lane, LaneState())
    state.lanes[lane] = replace(known, in_flight=known.in_flight + count)


class Change(enum.Enum):
    """What becomes of an entry in the queue."""

    REMOVE = "remove"
    DEFER = "defer"
    CONFLICT = "conflict"
    REJECT = "reject"
    ABANDON = "abandon"
    DAMAGE = "damage"


PARKED: Mapping[Change, State] = {
    Change.CONFLICT: State.CONFLICT,
    Change.REJECT: State.REJECTED,
    Change.ABANDON: State.ABANDONED,
    Change.DAMAGE: State.DAMAGED,
}


@dataclass(frozen=True, slots=True)
class Settled:
    """``delay_s``: until its next try, for DEFER. ``patient``: the target asked for this delay, nothing shortens it.

    ``wake``: the target answers again, what was deferred on it is due now.
    """

    change: Change
    reached: bool
    delay_s: float = 0.0
    patient: bool = False
    wake: bool = False


def settled(
    state: DeliveryState,
    lane: Lane,
    delivery_class: DeliveryClass,
    tries: int,
    reached: int,
    outcome: Outcome,
    now: float,
    randomness: Randomness,
) -> Settled:
    """Takes one outcome. ``tries`` and ``reached`` are the entry's counts before it."""
    known = state.lanes.get(lane, LaneState())
    known = replace(known, in_flight=max(known.in_flight - 1, 0))
    wake = False
    if isinstance(outcome, Deferred) and outcome.target:
        known = _failed(known, outcome, now, randomness)
    elif not isinstance(outcome, Damaged):
        wake = known.failures > 1 and now - known.down_since >= WAKE_AFTER_S
        asked = known.asked_until if known.asked_until > now else 0.0
        known = LaneState(in_flight=known.in_flight, rest_until=asked, asked_until=asked)
    if known == LaneState():
        state.lanes.pop(lane, None)
    else:
        state.lanes[lane] = known

    if isinstance(outcome, Delivered):
        return Settled(Change.REMOVE, True, wake=wake)
    if isinstance(outcome, Conflicted):
        return Settled(Change.CONFLICT, True, wake=wake)
    if isinstance(outcome, Rejected):
        return Settled(Change.REJECT, True, wake=wake)
    if isinstance(outcome, Damaged):
        return Settled(Change.DAMAGE, False)
    if delivery_class is DeliveryClass.MODERATE and reached + outcome.reached >= MODERATE_TRIES_MAX:
        return Settled(Change.ABANDON, outcome.reached, wake=wake)
    if outcome.retry_after_s is not None:
        return Settled(Change.DEFER, outcome.reached, outcome.retry_after_s, patient=True, wake=wake)
    delay = backoff(tries + 1, ENTRY_BACKOFF_S_MAX, randomness)
    return Settled(Change.DEFER, outcome.reached, delay, wake=wake)


def _failed(known: LaneState, outcome: Deferred, now: float, randomness: Randomness) -> LaneState:
    failures = known.failures + 1
    asked = known.asked_until
    if outcome.retry_after_s is not None:
        rest = outcome.retry_after_s
        asked = max(asked, now + rest)
    elif outcome.reached and failures == 1:
        rest = 0.0  # it answered, only not usefully: another entry may fare better, and shows who is to blame
    else:
        rest = backoff(failures, TARGET_BACKOFF_S_MAX, randomness)
    return LaneState(
        in_flight=known.in_flight,
        failures=failures,
        down_since=known.down_since if known.failures else now,
        rest_until=max(known.rest_until, now + rest),
        asked_until=asked,
    )


def woken(state: DeliveryState, lanes: Iterable[Lane]) -> None:
    """A person, or a new entry, asks to look at these targets now; a rest that was asked for stays."""
    for lane in lanes:
        known = state.lanes.get(lane)
        if known is not None and known.failures:
            state.lanes[lane] = replace(known, rest_until=known.asked_until)
