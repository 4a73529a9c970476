"""The pure next step against a model: order per key, bounded work, one probe for a target that is down, an end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.clock import SeededRandomness
from holdfast.outbox.entry import MODERATE_TRIES_MAX, DeliveryClass
from holdfast.outbox.next_step import (
    IDLE_S,
    WAITING_S,
    Change,
    DeliveryState,
    Lane,
    LaneView,
    Limits,
    backoff,
    begun,
    next_step,
    settled,
    woken,
)
from holdfast.outbox.outcomes import Conflicted, Damaged, Deferred, Delivered, Outcome, Rejected

LIMITS = Limits(parallel=3, targets_parallel=2)
LANES: list[Lane] = [("http", bytes([number])) for number in range(3)]


@dataclass
class Item:
    number: int
    lane: Lane
    key: int
    delivery_class: DeliveryClass
    poison: Outcome | None
    next_try: float = 0.0
    tries: int = 0
    reached: int = 0
    in_flight: bool = False
    ended: Change | None = None
    patient_until: float = 0.0


OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Delivered()),
    st.just(Rejected("no")),
    st.just(Conflicted("other")),
    st.just(Damaged("bits")),
    st.builds(
        Deferred,
        st.just("later"),
        st.booleans(),
        st.booleans(),
        st.one_of(st.none(), st.floats(0, 3600)),
    ),
)
POISONS: st.SearchStrategy[Outcome | None] = st.sampled_from(
    [
        None,
        None,
        None,
        Deferred("always 500", reached=True, target=True),
        Deferred("always reset", reached=False, target=True),
        Deferred("always 423", reached=True, target=False),
    ]
)


class Machine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        self.now = 1000.0
        self.randomness = SeededRandomness(seed)
        self.state = DeliveryState()
        self.items: list[Item] = []
        self.numbers = itertools.count()
        self.asked_rest: dict[Lane, float] = {}

    def blocked(self, item: Item) -> bool:
        return any(
            other.key == item.key
            and other.lane == item.lane
            and other.number < item.number
            and other.ended in (None, Change.CONFLICT)
            for other in self.items
        )

    def heads(self) -> list[Item]:
        return [item for item in self.items if item.ended is None and not item.in_flight and not self.blocked(item)]

    def views(self) -> dict[Lane, LaneView]:
        found = {}
        for lane in LANES:
            heads = [item for item in self.heads() if item.lane == lane]
            if heads:
                due = sum(item.next_try <= self.now for item in heads)
                later = [item.next_try - self.now for item in heads if item.next_try > self.now]
                found[lane] = LaneView(min(due, LIMITS.parallel), min(later, default=None))
        return found

    @rule(
        lane=st.sampled_from(LANES),
        key=st.integers(0, 4),
        moderate=st.booleans(),
        poison=POISONS,
        wakes=st.booleans(),
    )
    def add(self, lane: Lane, key: int, moderate: bool, poison: Outcome | None, wakes: bool) -> None:
        kind = DeliveryClass.MODERATE if moderate else DeliveryClass.CRITICAL
        self.items.append(Item(next(self.numbers), lane, key, kind, poison))
        if wakes:
            woken(self.state, LANES)

    @rule(seconds=st.sampled_from([0.0, 0.3, 2.0, 29.0, 3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def step(self) -> None:
        self.advance()

    def advance(self) -> float:
        views = self.views()
        before = {lane: known.down for lane, known in self.state.lanes.items()}
        waiting = any(item.ended is None for item in self.items)
        begins, look = next_step(self.state, views, waiting, self.now, LIMITS)
        assert 0 <= look.seconds <= (WAITING_S if waiting else IDLE_S)
        for begin in begins:
            assert self.asked_rest.get(begin.lane, 0.0) <= self.now, "Retry-After is honoured"
            due = [item for item in self.heads() if item.lane == begin.lane and item.next_try <= self.now]
            assert 0 < begin.count <= len(due)
            if before.get(begin.lane):
                assert begin.count == 1, "one probe for a target that is down"
            for item in sorted(due, key=lambda item: (item.next_try, item.number))[: begin.count]:
                assert item.patient_until <= self.now
                item.in_flight = True
            begun(self.state, begin.lane, begin.count)
        return look.seconds

    @rule(data=st.data(), outcome=OUTCOMES)
    def end_one(self, data: st.DataObject, outcome: Outcome) -> None:
        flying = [item for item in self.items if item.in_flight]
        if flying:
            item = data.draw(st.sampled_from(flying))
            self.end(item, item.poison or outcome)

    def end(self, item: Item, outcome: Outcome) -> None:
        result = settled(
            self.state, item.lane, item.delivery_class, item.tries, item.reached, outcome, self.now, self.randomness
        )
        item.in_flight = False
        item.tries += 1
        item.reached += result.reached
        if isinstance(outcome, Deferred) and outcome.target and outcome.retry_after_s is not None:
            rest = self.now + outcome.retry_after_s
            self.asked_rest[item.lane] = max(self.asked_rest.get(item.lane, 0.0), rest)
        if result.change is Change.DEFER:
            item.next_try = self.now + result.delay_s
            item.patient_until = item.next_try if result.patient else 0.0
        else:
            item.ended = result.change
        if result.change is Change.ABANDON:
            assert item.delivery_class is DeliveryClass.MODERATE
            assert item.reached == MODERATE_TRIES_MAX
        elif item.delivery_class is DeliveryClass.MODERATE and item.ended is None:
            assert item.reached < MODERATE_TRIES_MAX
        if result.wake:
            for other in self.heads():
                if other.lane == item.lane and other.patient_until <= self.now:
                    other.next_try = min(other.next_try, self.now)

    @invariant()
    def bounded(self) -> None:
        for lane in LANES:
            flying = [item for item in self.items if item.in_flight and item.lane == lane]
            known = self.state.lanes.get(lane)
            assert len(flying) == (0 if known is None else known.in_flight)
            assert len(flying) <= LIMITS.parallel
            assert len({item.key for item in flying}) == len(flying), "one entry of a key at a time"
        assert len({item.lane for item in self.items if item.in_flight}) <= LIMITS.targets_parallel

    def teardown(self) -> None:
        """Faults stop, but for the poisoned: all others are delivered in bounded time."""
        if not hasattr(self, "items"):
            return
        free = [
            item
            for item in self.items
            if item.poison is None
            and not any(
                other.key == item.key
                and other.lane == item.lane
                and other.number < item.number
                and (other.poison is not None or other.ended is Change.CONFLICT)
                for other in self.items
            )
        ]
        end = self.now + 2 * 3600 + 400 + 60 * len(self.items)
        steps = 0
        while any(item.ended is None for item in free):
            assert self.now < end, "all goes out once the target answers again"
            steps += 1
            assert steps < 50_000, "no spinning"
            flying = [item for item in self.items if item.in_flight]
            if flying:
                for item in flying:
                    self.end(item, item.poison or Delivered())
                self.advance()
            else:
                wait = self.advance()
                if not any(item.in_flight for item in self.items):
                    self.now += max(wait, 0.001)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_backoff_doubles_up_to_its_bound_with_jitter() -> None:
    randomness = SeededRandomness(1)
    for tries in range(1, 60):
        for _ in range(5):
            wait = backoff(tries, 300.0, randomness)
            most = min(2.0 ** (tries - 1), 300.0)
            assert most / 2 <= wait <= most


def test_a_poisoned_entry_leaves_its_target_working() -> None:
    """One that always gets 500 neither holds others up nor is it tried again after each of their successes."""
    state, randomness, lane, now = DeliveryState(), SeededRandomness(1), LANES[0], 0.0
    tries, next_try = 0, 0.0
    for _ in range(1000):
        now += 0.01
        if next_try <= now:
            begun(state, lane, 1)
            bad = Deferred("500", target=True)
            result = settled(state, lane, DeliveryClass.CRITICAL, tries, tries, bad, now, randomness)
            tries, next_try = tries + 1, now + result.delay_s
        begins, _ = next_step(state, {lane: LaneView(1)}, True, now, LIMITS)
        assert begins, "the others go on"
        begun(state, lane, 1)
        assert not settled(state, lane, DeliveryClass.CRITICAL, 0, 0, Delivered(), now, randomness).wake
    assert tries <= 6


def test_waiting_ends_at_once_when_the_target_answers_again() -> None:
    state, randomness, lane = DeliveryState(), SeededRandomness(1), LANES[0]
    gone = Deferred("no route", reached=False, target=True)
    now = 0.0
    for tries in range(20):
        begins, look = next_step(state, {lane: LaneView(3)}, True, now, LIMITS)
        if begins:
            begun(state, lane, begins[0].count)
            for _ in range(begins[0].count):
                settled(state, lane, DeliveryClass.CRITICAL, tries, 0, gone, now, randomness)
        now += look.seconds
    begun(state, lane, 1)
    assert settled(state, lane, DeliveryClass.CRITICAL, 9, 0, Delivered(), now, randomness).wake
    begins, _ = next_step(state, {lane: LaneView(3)}, True, now, LIMITS)
    assert begins[0].count == LIMITS.parallel
