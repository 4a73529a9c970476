"""Commits over HTTP: receipts, compare-and-set, groups, replays, packs that are gone."""

from __future__ import annotations

import pytest
from tests.coordinator.hall import Hall, digest_of

from holdfast.errors import NotFound, PacksGone
from holdfast.wire import messages as m
from holdfast.wire import routes


async def test_put_then_read(hall: Hall) -> None:
    owner = hall.owner
    plan = await owner.ask(routes.PLAN, m.PlanRequest(vault=owner.vault.id, items=[m.PlanItem(size=1000)]))
    assert plan.copies == 5
    assert len(plan.items[0].candidates) == 6
    written = owner.write("a", [digest_of("a")])
    assert await owner.states([written], packs=[hall.pack("a")]) == [["committed"]]
    found = await owner.ref("a")
    assert found.record == written.record
    assert found.keep == written.keep
    assert len(found.packs[0].nodes) == 5
    assert {found.nodes[number].id for number in found.packs[0].nodes} == {node.id for node in hall.nodes[:5]}


async def test_commit_with_one_receipt_too_few_is_refused(hall: Hall) -> None:
    owner = hall.owner
    written = owner.write("a", [digest_of("a")])
    [[result]] = await owner.commit([written], packs=[hall.pack("a", copies=4)])
    assert result == m.RefResult(state="packs-gone", packs=[digest_of("a")])
    with pytest.raises(NotFound):
        await owner.ref("a")
    with pytest.raises(PacksGone):
        await owner.ask(routes.REGISTER, m.RegisterRequest(vault=owner.vault.id, packs=[hall.pack("a", copies=4)]))
    assert await owner.states([written], packs=[hall.pack("a")]) == [["committed"]]
