"""The rules of repair one by one, on the plain functions: what is copied, when, in what order, and what stops it."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness
from holdfast.coordinator.placement import Site
from holdfast.coordinator.repair.breaker import Breaker, Member, step
from holdfast.coordinator.repair.dispatch import LEASE_S, Dispatch, Job
from holdfast.coordinator.repair.plan import Holder, Need, Net, Shape, assess, order, plan, surplus
from holdfast.errors import Conflict, NotFound

HOUR = 3600.0


def holder(number: int, **changes: Any) -> Holder:
    facts: dict[str, Any] = {
        "number": number,
        "store": bytes([number]) * 16,
        "domain": f"domain-{number}",
        "live": True,
    }
    return Holder(**(facts | changes))


def net(*changed: Holder, count: int = 8, held: bool = False) -> Net:
    holders = {number: holder(number) for number in range(count)}
    return Net(holders | {one.number: one for one in changed}, floor=2, least_wait=100.0, held=held)


def gone(number: int, silence: float) -> Holder:
    return holder(number, live=False, silence=silence)


def shape(*places: int, pack: int = 1, target: int = 5) -> Shape:
    return Shape(pack, target, 1000, places)


def need(found: Need | None) -> Need:
    assert found is not None
    return found


def test_a_node_is_waited_for_and_less_the_more_copies_are_missing() -> None:
    whole = shape(0, 1, 2, 3, 4)
    assert assess(whole, net()) is None
    waiting = need(assess(whole, net(gone(4, HOUR))))
    assert (waiting.copies, waiting.due_in) == (0, 3 * HOUR)
    assert need(assess(whole, net(gone(4, 4 * HOUR)))).copies == 1
    two = need(assess(whole, net(gone(3, 0.5 * HOUR), gone(4, 0.5 * HOUR))))
    assert (two.copies, two.due_in) == (0, 0.5 * HOUR)
    assert need(assess(whole, net(gone(3, HOUR), gone(4, HOUR)))).copies == 2, "back to the full target"


def test_at_the_floor_nobody_is_waited_for() -> None:
    down = [gone(number, 1.0) for number in (2, 3, 4)]
    assert need(assess(shape(0, 1, 2, 3, 4), net(*down))).copies == 3


def test_a_copy_that_is_known_to_be_gone_is_made_at_once() -> None:
    found = need(assess(shape(0, 1, 2, 3), net()))
    assert (found.live, found.copies) == (4, 1)


def test_two_nodes_of_one_disk_are_one_copy() -> None:
    twin = holder(4, store=bytes([3]) * 16)
    assert need(assess(shape(0, 1, 2, 3, 4), net(twin))).copies == 1


def test_the_most_endangered_comes_first() -> None:
    shapes = [shape(0, 1, 2, 3, pack=1), shape(0, pack=2), shape(0, 1, pack=3), shape(0, 1, 2, pack=4)]
    due, debt = order(shapes, net(), 3)
    assert [one.pack for one in due] == [2, 3, 4]
    assert debt.due_packs == 4


def test_a_lost_pack_is_said_and_not_planned() -> None:
    due, debt = order([shape(0, 1)], net(gone(0, 9 * HOUR), gone(1, 9 * HOUR)), 10)
    assert (due, debt.lost) == ([], 1)


def sites(count: int = 8) -> list[Site]:
    return [Site(number, bytes([number]) * 16, f"domain-{number}", 10_000) for number in range(count)]


def test_copies_go_to_disks_without_one_and_come_from_live_ones() -> None:
    there = net(gone(2, 9 * HOUR))
    wanted = shape(0, 1, 2, target=5)
    room = dict.fromkeys(range(8), 4)
    for seed in range(20):
        copies = plan([(wanted, need(assess(wanted, there)))], there, sites(), room, SeededRandomness(seed))
        assert len(copies) == 3
        assert len({one.target for one in copies}) == 3
        assert {one.target for one in copies} <= {3, 4, 5, 6, 7}
        assert all(set(one.sources) == {0, 1} for one in copies)


def test_a_copy_too_many_goes_only_while_the_target_stays() -> None:
    assert surplus(shape(0, 1, 2, 3, 4), net()) == []
    assert len(surplus(shape(0, 1, 2, 3, 4, 5), net())) == 1
    assert surplus(shape(0, 1, 2, 3, 4, 5), net(gone(5, 1.0))) == [], "a silent copy makes no other one too many"
    twin = holder(5, store=bytes([4]) * 16)
    assert surplus(shape(0, 1, 2, 3, 4, 5), net(twin)) == []


def test_a_copy_leaves_an_emptied_node_only_once_it_was_made_elsewhere() -> None:
    emptied = holder(4, leaving=True)
    assert surplus(shape(0, 1, 2, 3, 4), net(emptied)) == []
    assert surplus(shape(0, 1, 2, 3, 4, 5), net(emptied)) == [4]
    assert surplus(shape(0, 1, 2, 3, 4, 5), net(emptied, gone(5, 1.0))) == []


def test_the_breaker_holds_all_but_what_is_at_the_floor() -> None:
    down = [gone(number, 9 * HOUR) for number in (3, 4)]
    assert need(assess(shape(0, 1, 2, 3, 4), net(*down, held=True))).copies == 0
    down.append(gone(2, 9 * HOUR))
    assert need(assess(shape(0, 1, 2, 3, 4), net(*down, held=True))).copies == 1, "only off the floor"


def test_the_breaker_opens_when_more_vanish_than_the_network_survives() -> None:
    def after(silent: int) -> Breaker:
        members = [Member(number, 100, 10.0 if number < silent else None) for number in range(8)]
        return step(Breaker(), members, 50.0, window=HOUR, hold=24 * HOUR, survive=2)

    assert after(2).state == "closed"
    assert after(3).state == "open"
    back = step(after(3), [Member(number, 100, None) for number in range(8)], 60.0, window=HOUR, hold=HOUR, survive=2)
    assert back.state == "closed"


def _task(dispatch: Dispatch, node: int, now: float) -> Job:
    return dispatch.add(
        "copy", pack=1, digest=Digest.of(b"pack"), size=10, vault=1, node=node, urgency=(1, 1), now=now, sources=(2,)
    )


def test_the_word_of_an_old_token_changes_nothing() -> None:
    dispatch = Dispatch(SeededRandomness(1))
    _task(dispatch, 7, 0.0)
    [job] = dispatch.lease(7, 16, 0.0)
    assert dispatch.held(job.id, 7, job.token) is job
    with pytest.raises(Conflict):
        dispatch.held(job.id, 7, job.token + 1)
    with pytest.raises(NotFound):
        dispatch.held(job.id, 8, job.token)
    dispatch.expire(LEASE_S + 1)
    with pytest.raises(NotFound):
        dispatch.held(job.id, 7, job.token)
