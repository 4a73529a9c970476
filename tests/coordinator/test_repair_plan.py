"""The pure plan of repair: what it may never do, over random networks, and step by step over random histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.clock import SeededRandomness
from holdfast.coordinator.placement import Site
from holdfast.coordinator.repair.plan import NEVER, Holder, Need, Net, Shape, assess, order, plan, surplus, wait_for
from holdfast.coordinator.settings import floor_of

HOUR = 3600.0
FLOOR = 2


def holder(number: int, *, silence: float | None = None, **changes: object) -> Holder:
    made = Holder(number, bytes([number]) * 16, f"d{number}", silence is None, silence=silence or 0.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def net(*holders: Holder, held: bool = False, least_wait: float = 150.0) -> Net:
    return Net({one.number: one for one in holders}, FLOOR, least_wait, held)


def pack(*places: int, target: int = 5) -> Shape:
    return Shape(1, target, 100, places)


def test_a_whole_pack_needs_nothing() -> None:
    assert assess(pack(0, 1, 2, 3, 4), net(*map(holder, range(5)))) is None


@pytest.mark.parametrize(("missing", "wait"), [(1, 4 * HOUR), (2, HOUR), (3, 150.0)])
def test_waits_shrink_with_what_is_missing(missing: int, wait: float) -> None:
    quiet = [holder(number, silence=wait - 1) for number in range(missing)]
    live = [holder(number) for number in range(missing, 5)]
    before = assess(pack(*range(5)), net(*quiet, *live))
    assert before is not None
    if 5 - missing <= FLOOR:
        assert before.copies == missing, "at the floor nobody is waited for"
        return
    assert (before.copies, before.due_in) == (0, 1.0)
    gone = [replace(one, silence=wait) for one in quiet]
    after = assess(pack(*range(5)), net(*gone, *live))
    assert after is not None
    assert after.copies == missing


def test_copies_known_to_be_gone_are_made_at_once_and_silent_ones_waited_for() -> None:
    need = assess(pack(0, 1, 2), net(holder(0, silence=60), *map(holder, range(1, 5))))
    assert need is not None
    assert need.live == 2
    assert need.copies == 3, "two live copies are the floor"
    need = assess(pack(0, 1, 2, 3), net(holder(0, silence=60), *map(holder, range(1, 5))))
    assert need is not None
    assert (need.live, need.copies) == (3, 1), "one is gone, one may come back"


def test_a_lost_pack_is_shown_and_not_copied() -> None:
    need = assess(pack(0), net(holder(0, silence=NEVER)))
    assert need == Need(0, -5, 1, 100, 0, NEVER)


def test_an_excused_node_is_waited_for_but_at_the_floor() -> None:
    quiet = [holder(number, silence=100 * HOUR, excused=True) for number in range(2)]
    need = assess(pack(*range(5)), net(*quiet, *map(holder, range(2, 5))))
    assert need is not None
    assert (need.copies, need.due_in) == (0, NEVER)
    quiet.append(holder(2, silence=100 * HOUR, excused=True))
    need = assess(pack(*range(5)), net(*quiet, *map(holder, range(3, 5))))
    assert need is not None
    assert need.copies == 3


def test_an_open_breaker_only_leaves_the_floor() -> None:
    gone = [holder(number, silence=NEVER) for number in range(3)]
    need = assess(pack(*range(5)), net(*gone, *map(holder, range(3, 5)), held=True))
    assert need is not None
    assert need.copies == 1
    need = assess(pack(*range(5)), net(*gone[:2], *map(holder, range(2, 5)), held=True))
    assert need is not None
    assert need.copies == 0


def test_two_nodes_that_name_one_store_are_one_copy() -> None:
    twin = holder(1, store=bytes([0]) * 16)
    need = assess(pack(0, 1, 2, 3, 4), net(holder(0), twin, *map(holder, range(2, 5))))
    assert need is not None
    assert (need.live, need.copies) == (4, 1)


def test_the_most_endangered_come_first() -> None:
    everybody = net(holder(0, silence=NEVER), holder(1, silence=NEVER), *map(holder, range(2, 9)))
    shapes = [
        Shape(1, 5, 10, (0, 4, 5, 6, 7)),
        Shape(2, 5, 10, (0, 1, 4)),
        Shape(3, 5, 10, (0, 1, 4, 5)),
        Shape(4, 2, 10, (0, 4)),
        Shape(5, 5, 10, (3, 4, 5, 6, 7)),
    ]
    needs, debt = order(shapes, everybody, 10)
    assert [need.pack for need in needs] == [2, 4, 3, 1]
    assert (debt.due_packs, debt.due_bytes, debt.lost) == (4, 10 * (4 + 1 + 3 + 1), 0)


# --- over random networks ---------------------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> tuple[Net, list[Shape], list[Site]]:
    count = draw(st.integers(1, 9))
    holders = []
    for number in range(count):
        silence = draw(st.none() | st.sampled_from([0.0, 100.0, 200.0, HOUR, 5 * HOUR, NEVER]))
        holders.append(
            Holder(
                number, bytes([draw(st.integers(0, count))]) * 16, f"d{draw(st.integers(0, 4))}", silence is None,
                leaving=draw(st.integers(0, 5)) == 0, excused=draw(st.integers(0, 5)) == 0, silence=silence or 0.0,
                out_after=draw(st.sampled_from([600.0, 4 * HOUR])),
            )
        )  # fmt: skip
    shapes = [
        Shape(one, draw(st.integers(1, 5)), draw(st.integers(1, 50)), tuple(sorted(draw(st.sets(st.integers(0, 8))))))
        for one in range(draw(st.integers(1, 5)))
    ]
    sites = [
        Site(one.number, one.store, one.domain, draw(st.integers(0, 200)))
        for one in holders
        if one.live and not one.leaving
    ]
    return net(*holders, held=draw(st.booleans())), shapes, sites


@given(networks(), st.integers(0, 4), st.integers(0, 1 << 30))
@settings(max_examples=150)
def test_a_plan_is_always_sound(found: tuple[Net, list[Shape], list[Site]], room: int, seed: int) -> None:
    state, shapes, sites = found
    needs, _ = order(shapes, state, 100)
    by_pack = {shape.pack: shape for shape in shapes}
    rooms = {site.number: room for site in sites}
    copies = plan([(by_pack[need.pack], need) for need in needs], state, sites, rooms, SeededRandomness(seed))
    for need in needs:
        shape = by_pack[need.pack]
        mine = [copy for copy in copies if copy.pack == need.pack]
        stores = [state.holders[number].store for number in shape.places if number in state.holders]
        targets = [state.holders[copy.target].store for copy in mine]
        assert len(set(targets)) == len(targets) <= need.copies
        assert not set(targets) & set(stores), "never to a disk that is on record with the pack"
        for copy in mine:
            assert copy.sources, "a copy has a source"
            assert all(state.holders[number].live and number in shape.places for number in copy.sources)
        at_floor = need.live <= floor_of(shape.target, FLOOR)
        if state.held:
            assert at_floor
            assert need.live + need.copies <= FLOOR + 1
        if not at_floor:
            staying = {
                state.holders[number].store
                for number in shape.places
                if number in state.holders and state.holders[number].live and not state.holders[number].leaving
            }
            assert len(staying) + need.copies <= shape.target, "nothing more than what is missing"
    for site in sites:
        taken = [by_pack[copy.pack].size for copy in copies if copy.target == site.number]
        assert len(taken) <= room
        assert sum(taken) <= site.free
    firsts = [next(index for index, need in enumerate(needs) if need.pack == copy.pack) for copy in copies]
    assert firsts == sorted(firsts), "in the order of danger"


@given(networks())
@settings(max_examples=150)
def test_what_goes_is_never_needed(found: tuple[Net, list[Shape], list[Site]]) -> None:
    state, shapes, _ = found
    for shape in shapes:
        going = surplus(shape, state)
        staying = {
            one.store
            for number in shape.places
            if (one := state.holders.get(number)) is not None and one.live and not one.leaving and number not in going
        }
        if going:
            assert len(staying) >= shape.target
        assert all(state.holders[number].live for number in going)


# --- over random histories --------------------------------------------------------------------------------------------


class Healing(RuleBasedStateMachine):
    """One pack on eight nodes that die and return; copies and trims are done by the plan, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.heard: dict[int, float | None] = dict.fromkeys(range(8), None)  # None: it is there
        self.places = {0, 1, 2, 3, 4}
        self.held = False
        self.random = SeededRandomness(1)

    def net(self) -> Net:
        return net(
            *(holder(n, silence=None if at is None else max(self.now - at, 0.001)) for n, at in self.heard.items()),
            held=self.held,
        )

    def live(self) -> set[int]:
        return {number for number in self.places if self.heard[number] is None}

    @rule(number=st.integers(0, 7))
    def dies(self, number: int) -> None:
        if self.heard[number] is None:
            self.heard[number] = self.now

    @rule(number=st.integers(0, 7))
    def returns(self, number: int) -> None:
        self.heard[number] = None

    @rule(seconds=st.sampled_from([30.0, 200.0, HOUR, 5 * HOUR]))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(held=st.booleans())
    def breaker(self, held: bool) -> None:
        self.held = held

    @rule()
    def repair(self) -> None:
        state, shape = self.net(), pack(*sorted(self.places))
        need = assess(shape, state)
        if need is None or not need.copies:
            return
        before = self.live()
        sites = [Site(n, one.store, one.domain, 1000) for n, one in state.holders.items() if one.live]
        for copy in plan([(shape, need)], state, sites, dict.fromkeys(range(8), 9), self.random):
            assert copy.target not in self.places
            self.places.add(copy.target)
        assert before <= self.live()
        assert len(before) <= FLOOR or any(
            self.now - at >= min(wait_for(5 - len(before), holder(n), state), 4 * HOUR)
            for n, at in self.heard.items()
            if at is not None
        ), "above the floor something was waited for"

    @rule()
    def trim(self) -> None:
        going = surplus(pack(*sorted(self.places)), self.net())
        if going:
            self.places.discard(going[0])
            assert len(self.live()) >= 5

    @precondition(lambda self: not self.held)
    @rule()
    def settles(self) -> None:
        """Once nothing changes any more, time heals everything that can be healed."""
        if not self.live():
            return
        self.now += 5 * HOUR
        self.repair()
        up = sum(1 for at in self.heard.values() if at is None)
        # a silent node's copy stays on record and its disk is not asked again: it is silent, so no site anyway
        assert len(self.live()) >= min(5, up)

    @invariant()
    def never_without_a_place(self) -> None:
        assert len(self.places) >= 5


TestHealing = Healing.TestCase
TestHealing.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
