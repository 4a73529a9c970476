"""Silence, reachability, plans when nodes are away, policy and status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.hall import Device, Hall, digest_of

from holdfast.auth.documents import open_signed
from holdfast.auth.grants import GRANT_LIFE_S_MAX, Grant
from holdfast.auth.identity import Identity
from holdfast.auth.invites import from_line
from holdfast.cli.status import words
from holdfast.coordinator.registry import Node, Registry
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.errors import Conflict, Denied, NoSpace, TooFewNodes, Unavailable
from holdfast.wire import messages as m
from holdfast.wire import routes


class StillClock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.moment = 1000.0

    def now(self) -> float:
        return self.moment + 1e9

    def monotonic(self) -> float:
        return self.moment

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


def node(number: int = 1, **changes: Any) -> Node:
    facts: dict[str, Any] = {
        "number": number, "id": Identity(bytes([number]) * 32).id, "name": f"n{number}",
        "store": bytes([number]) * 16, "domain": f"d{number}", "capacity": 100, "always_on": False,
        "url": "http://a:1", "reached_url": "http://a:1", "free": 100,
    }  # fmt: skip
    return Node(**(facts | changes))


def watched(*nodes: Node) -> tuple[StillClock, Registry]:
    clock = StillClock()
    registry = Registry(clock, CoordinatorSettings())
    for one in nodes:
        registry.add(one)
    return clock, registry


def pass_time(clock: StillClock, registry: Registry, seconds: float) -> None:
    """As a coordinator lives through it: it looks every second."""
    for _ in range(int(seconds)):
        clock.moment += 1
        registry.look()


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_silent_node_is_suspect_then_down_then_out() -> None:
    one = node()
    clock, registry = watched(one)
    registry.hear(one)
    seen: list[tuple[str, float]] = []
    for _ in range(4 * 3600 + 60):
        pass_time(clock, registry, 1)
        state = registry.hearing(one)
        if not seen or seen[-1][0] != state:
            seen.append((state, registry.silence(one)))
    assert seen == [("up", 1), ("suspect", 46), ("down", 106), ("out", 4 * 3600 + 1)]
    registry.hear(one)
    assert registry.state(one) == ("up", "")


def test_one_that_is_always_on_is_out_after_ten_minutes() -> None:
    one = node(always_on=True)
    clock, registry = watched(one)
    pass_time(clock, registry, 599)
    assert registry.hearing(one) == "down"
    pass_time(clock, registry, 2)
    assert registry.hearing(one) == "out"


def test_after_a_start_everybody_has_a_full_window() -> None:
    one = node()
    clock, registry = watched(one)
    assert registry.state(one)[0] == "up"
    pass_time(clock, registry, 44)
    assert registry.state(one)[0] == "up"
    pass_time(clock, registry, 70)
    assert registry.state(one)[0] == "down"


def test_those_known_to_be_silent_get_no_window_at_a_start() -> None:
    down, out = node(1, silent="down"), node(2, silent="out")
    _, registry = watched(down, out)
    assert (registry.hearing(down), registry.hearing(out)) == ("down", "out")
    registry.hear(down)
    assert registry.hearing(down) == "up"


def test_a_coordinator_that_stood_still_blames_nobody() -> None:
    one = node()
    clock, registry = watched(one)
    registry.hear(one)
    pass_time(clock, registry, 20)
    clock.moment += 3600  # suspended
    assert registry.state(one)[0] == "up"
    pass_time(clock, registry, 44)
    assert registry.state(one)[0] == "up"
    pass_time(clock, registry, 2)
    assert registry.state(one)[0] == "suspect"


def test_one_that_leaves_is_down_at_once() -> None:
    one = node()
    _, registry = watched(one)
    registry.hear(one)
    registry.leave(one)
    assert registry.hearing(one) == "down"
    registry.hear(one)
    assert registry.hearing(one) == "up"


def test_what_a_node_may_hold_and_take_by_its_state() -> None:
    cases: list[tuple[dict[str, Any], str, bool, bool]] = [
        ({}, "up", True, True),
        ({"read_only": True}, "read-only", True, False),
        ({"word": "draining"}, "draining", True, False),
        ({"word": "maintenance"}, "maintenance", True, False),
        ({"reached_url": ""}, "unreachable", False, False),
        ({"url": "http://b:1"}, "unreachable", True, False),
        ({"silent": "down"}, "down", False, False),
        ({"silent": "out"}, "out", False, False),
    ]
    for changes, state, live, takes in cases:
        one = node(**changes)
        _, registry = watched(one)
        assert registry.state(one)[0] == state
        assert bool(registry.live()) == live, changes
        assert bool(registry.sites()) == takes, changes
        assert (one.number in registry.counted()) == (state != "out")


def test_only_what_changed_is_written() -> None:
    one, two = node(1), node(2)
    clock, registry = watched(one, two)
    assert registry.unsaved() == []
    registry.hear(one)
    assert [row["number"] for row in registry.unsaved()] == [1]
    assert registry.unsaved() == []
    pass_time(clock, registry, 300)
    assert [(row["number"], row["state"]) for row in registry.unsaved()] == [(1, "down"), (2, "down")]


def test_planned_bytes_count_for_a_while() -> None:
    one = node()
    clock, registry = watched(one)
    registry.plan(1, 70)
    assert registry.sites()[0].free == 30
    pass_time(clock, registry, 119)
    assert registry.sites() == [] or registry.sites()[0].free == 30
    pass_time(clock, registry, 2)
    registry.hear(one)
    assert registry.sites()[0].free == 100


async def test_silence_and_a_restart_over_http(hall: Hall) -> None:
    for number in range(5):
        hall.clock.skip(25)
        for one in hall.nodes[1:]:
            await one.beat()
        listed = {info.name: info.state for info in (await hall.owner.ask(routes.NODES)).nodes}
        assert listed["node-1"] == "up"
        assert listed["node-0"] == ("up" if number == 0 else "suspect" if number < 4 else "down")
    status = await hall.owner.ask(routes.STATUS)
    assert status.nodes == {"up": 5, "down": 1}
    assert (status.machines, status.disks) == (5, 5)
    await hall.restart()
    listed = {info.name: info.state for info in (await hall.owner.ask(routes.NODES)).nodes}
    assert (listed["node-0"], listed["node-1"]) == ("down", "up")
    assert (await hall.nodes[0].beat()).state == "up"


# --- reachability -----------------------------------------------------------------------------------------------------


async def test_a_node_that_cannot_be_reached_is_told_why_and_tried_again(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=1)
    one = bare_hall.nodes[0]
    right = one.url
    one.url = "http://127.0.0.1:9"
    answer = await one.beat()
    assert answer.state == "unreachable"
    assert "http://127.0.0.1:9" in answer.reason
    listed = (await bare_hall.owner.ask(routes.NODES)).nodes[0]
    assert (listed.state, listed.reason) == ("unreachable", answer.reason)
    one.url = bare_hall.target.url
    answer = await one.beat()
    assert answer.state == "unreachable"
    assert "somebody else" in answer.reason
    one.url = right
    assert (await one.beat()).state == "up"


async def test_a_node_that_never_ran_is_registered_and_down(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    one = await bare_hall.add_node("a")
    assert (await one.beat(url="")).state == "up"  # without an address it keeps the one it had
    status = await bare_hall.owner.ask(routes.STATUS)
    assert status.nodes == {"up": 1}


# --- plans ------------------------------------------------------------------------------------------------------------


async def plan(hall: Hall, **changes: Any) -> m.Plan:
    facts: dict[str, Any] = {"vault": hall.owner.vault.id, "items": [m.PlanItem(size=1000)]}
    return await hall.owner.ask(routes.PLAN, m.PlanRequest(**(facts | changes)))


async def test_too_few_nodes_says_both_numbers_and_the_command(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=3)
    with pytest.raises(TooFewNodes, match=r"5 copies .* only 3 nodes .* holdfast policy survive 2") as caught:
        await plan(bare_hall)
    assert caught.value.extra == {"registered": 3, "copies": 5}
    assert (await plan(bare_hall, allow_degraded=True)).least == 2


async def test_two_nodes_on_one_store_are_one_node(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=4)
    await bare_hall.add_node("twin", store=bare_hall.nodes[0].store)
    with pytest.raises(TooFewNodes, match="only 4"):
        await plan(bare_hall)


async def test_another_disk_in_a_known_node_is_refused_until_the_node_was_removed(hall: Hall) -> None:
    node = hall.nodes[0]
    was, node.store = node.store, b"another disk 123"
    with pytest.raises(Denied, match="another store than it joined with: is the right disk mounted"):
        await node.beat()
    line = hall.made.invites["node"]
    with pytest.raises(Denied, match="registered with another store; make a new node"):
        await node.join(from_line(line))
    await hall.owner.ask(routes.NODE_REMOVE, m.RemoveOrder(force=True), {"id": str(node.id)})
    await node.join(from_line(line))  # an empty node now
    assert (await node.beat()).state == "up"
    node.store = was
    with pytest.raises(Denied):
        await node.beat()


async def test_enough_nodes_that_do_not_answer_is_unavailable(hall: Hall) -> None:
    for one in hall.nodes[:2]:
        await one.beat(leaving=True)
    with pytest.raises(Unavailable, match="6 nodes are registered, but only 4 are up"):
        await plan(hall)
    found = await plan(hall, copies=None, allow_degraded=True)
    assert (found.wanted, found.least, len(found.items[0].candidates)) == (5, 2, 4)


async def test_a_degraded_plan_names_nodes_for_all_copies(hall: Hall) -> None:
    """Fewer copies are what is settled for, not what is aimed at."""
    found = await plan(hall, allow_degraded=True)
    assert (found.wanted, found.least, len(found.items[0].candidates)) == (5, 2, 6)


async def test_nodes_without_room_get_nothing(hall: Hall) -> None:
    for one in hall.nodes[:2]:
        await one.beat(free=10)
    with pytest.raises(NoSpace, match="4 of the 6"):
        await plan(hall)
    await hall.nodes[0].beat()
    found = await plan(hall)
    names = {found.nodes[number].name for number in found.items[0].candidates}
    assert names == {one.name for one in hall.nodes} - {"node-1"}


async def test_plans_that_nobody_used_do_not_fill_the_network(hall: Hall) -> None:
    for one in hall.nodes:
        await one.beat(free=1000)
    for _ in range(10):
        assert len((await plan(hall, items=[m.PlanItem(size=600)])).items[0].candidates) == 6
    with pytest.raises(NoSpace):
        await plan(hall, items=[m.PlanItem(size=1001)])


async def test_more_copies_may_be_asked_but_never_fewer(bare_hall: Hall) -> None:
    await bare_hall.make(survive=2, nodes=6)
    assert (await plan(bare_hall)).wanted == 3
    assert (await plan(bare_hall, copies=1)).wanted == 3
    found = await plan(bare_hall, copies=5)
    assert found.wanted == 5
    assert len(found.items[0].candidates) == 6


async def test_nodes_that_just_failed_come_last(hall: Hall) -> None:
    for _ in range(5):
        found = await plan(hall, avoid=[hall.nodes[0].id])
        assert found.nodes[found.items[0].candidates[-1]].id == hall.nodes[0].id


async def test_grants_are_for_the_device_the_node_and_the_vault(hall: Hall) -> None:
    found = await plan(hall, items=[m.PlanItem(size=5 << 20)] * 3)
    stores = {one.id: one.store for one in hall.nodes}
    for candidate in found.nodes:
        grant = open_signed(Grant, candidate.grant, hall.made.id)
        assert (grant.kind, grant.node, grant.store) == ("put", candidate.id, stores[candidate.id])
        assert (grant.vault, grant.subject) == (hall.owner.vault.id, hall.owner.id)
        assert grant.budget >= 15 << 20
        assert found.expires <= grant.expires <= hall.clock.now() + GRANT_LIFE_S_MAX
        assert (grant.epoch, grant.commit) == hall.coordinator.state.position.current
    assert found.expires == pytest.approx(hall.clock.now() + 600, abs=2)
    again = await plan(hall)
    before = {candidate.id: candidate.grant for candidate in found.nodes}
    assert all(before[candidate.id] == candidate.grant for candidate in again.nodes)
    hall.clock.skip(3100)
    for one in hall.nodes:
        await one.beat()
    fresh = await plan(hall)
    assert all(before[candidate.id] != candidate.grant for candidate in fresh.nodes)


async def test_a_spent_grant_is_not_handed_out_again(hall: Hall) -> None:
    first = await plan(hall, items=[m.PlanItem(size=1 << 29)])
    second = await plan(hall, items=[m.PlanItem(size=(1 << 29) + 1000)])
    before = {candidate.id: candidate.grant for candidate in first.nodes}
    assert all(before[candidate.id] != candidate.grant for candidate in second.nodes)


# --- policy and status ------------------------------------------------------------------------------------------------


async def test_the_policy_is_changed_by_an_operator_against_its_version(hall: Hall) -> None:
    owner = hall.owner
    policy = await owner.ask(routes.POLICY)
    assert policy == m.Policy(survive=4, floor=2, version=1)
    change = m.PolicyChange(survive=1, version=1)
    assert await owner.ask(routes.POLICY_CHANGE, change) == m.Policy(survive=1, floor=1, version=2)
    assert (await owner.ask(routes.POLICY_CHANGE, change)).version == 2  # the answer was lost, say
    with pytest.raises(Conflict, match="survive 1"):
        await owner.ask(routes.POLICY_CHANGE, m.PolicyChange(survive=3, version=1))
    user = Device(hall, hall.identity(), hall.identity())
    await user.join(await owner.invite("user"))
    with pytest.raises(Denied):
        await user.ask(routes.POLICY_CHANGE, m.PolicyChange(survive=0, version=2))
    assert (await hall.nodes[0].beat()).settings.survive == 1
    await hall.restart()
    assert (await user.ask(routes.POLICY)).survive == 1
    assert (await plan(hall)).wanted == 2


async def test_a_higher_policy_asks_more_of_packs_that_are_known(bare_hall: Hall) -> None:
    await bare_hall.make(survive=1, nodes=4)
    owner = bare_hall.owner
    pack = bare_hall.pack("a")
    assert await owner.states([owner.write("a", [pack.digest])], packs=[pack]) == [["committed"]]
    await owner.ask(routes.POLICY_CHANGE, m.PolicyChange(survive=2, version=1))
    assert await owner.states([owner.write("b", [pack.digest])]) == [["packs-gone"]]
    more = m.PackReceipts(digest=pack.digest, size=1000, receipts=[bare_hall.nodes[3].receipt(pack.digest, 1000)])
    assert await owner.states([owner.write("b", [pack.digest])], packs=[more]) == [["committed"]]
    status = await owner.ask(routes.STATUS)
    assert (status.packs.healthy, status.may_die) == (1, 2)


async def test_status_counts_live_copies(hall: Hall) -> None:
    owner = hall.owner
    empty = await owner.ask(routes.STATUS)
    assert (empty.packs.total, empty.may_die, empty.vaults) == (0, None, 1)
    await owner.commit(
        [owner.write("a", [digest_of("a")])], [owner.write("b", [digest_of("b")])],
        packs=[hall.pack("a"), hall.pack("b", first=1)],
    )  # fmt: skip
    status = await owner.ask(routes.STATUS)
    assert (status.packs.total, status.packs.healthy, status.packs.stored, status.may_die) == (2, 2, 2000, 4)
    expected = [(1, 1, 0, 3), (0, 2, 0, 2), (0, 2, 0, 1), (0, 2, 0, 0), (0, 1, 1, 0), (0, 0, 2, 0)]
    for one, (healthy, degraded, lost, may_die) in zip(hall.nodes, expected, strict=True):
        await one.beat(leaving=True)
        status = await owner.ask(routes.STATUS)
        assert (status.packs.healthy, status.packs.degraded, status.packs.lost) == (healthy, degraded, lost)
        assert status.may_die == may_die
    listed = (await owner.ask(routes.NODES)).nodes
    assert [(info.packs, info.stored) for info in listed] == [(1, 1000), *[(2, 2000)] * 4, (1, 1000)]


async def test_status_counts_whole_machines(bare_hall: Hall) -> None:
    await bare_hall.make(survive=3, nodes=0)
    for number in range(6):
        node = await bare_hall.add_node(f"node-{number}", domain=f"house-{number // 2}")
        await node.beat()
    owner = bare_hall.owner
    await owner.commit([owner.write("a", [digest_of("a")])], packs=[bare_hall.pack("a")])
    status = await owner.ask(routes.STATUS)
    assert (status.may_die, status.machines, status.machines_may_die) == (3, 3, 1), "four copies on two machines"
    assert "any 3 of the nodes may die now, but any one of the machines" in words(status)
    await owner.commit([owner.write("b", [digest_of("b")])], packs=[bare_hall.pack("b", first=1)])
    assert (await owner.ask(routes.STATUS)).machines_may_die == 1, "the other one lies on three"
    await bare_hall.nodes[0].beat(leaving=True)
    await bare_hall.nodes[1].beat(leaving=True)
    status = await owner.ask(routes.STATUS)
    assert (status.may_die, status.machines_may_die) == (1, 0)
    assert "any one of the nodes may die now, but no whole machine" in words(status)


async def test_settings_reach_the_members(tmp_path: Path) -> None:
    settings = replace(CoordinatorSettings(), heartbeat_interval=2.0, offline_after=5)
    hall = Hall(tmp_path / "c", settings)
    await hall.make(survive=0, nodes=1)
    answer = await hall.nodes[0].beat()
    assert answer.settings == m.Settings(heartbeat_interval=2.0, offline_after=5, survive=0, floor=0)
    await hall.close()
