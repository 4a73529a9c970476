"""After a recovery a device commits again what it found in packs: only then, and nothing newer is overwritten."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from tests.coordinator.hall import BASE, Device, Hall, digest_of, tag_of

from holdfast.codec.refs import parse_record
from holdfast.errors import Denied
from holdfast.metadata.tables import packs
from holdfast.wire import messages as m
from holdfast.wire import routes


async def adopt(hall: Hall) -> None:
    """All packs there are wait for a device, as after a recovery."""
    await hall.run(lambda connection: connection.execute(update(packs).values(adopted=1)))
    hall.coordinator.state.unread.add(1)


async def versions(hall: Hall, owner: Device, name: str) -> list[int]:
    found = await owner.ask(routes.REF_HISTORY, None, owner.path(name))
    return [parse_record(one.record).clear.version for one in found.versions]


async def test_only_while_packs_wait_to_be_read(hall: Hall) -> None:
    owner = hall.owner
    first = owner.write("name")
    assert await owner.states([first]) == [["committed"]]
    with pytest.raises(Denied, match="nothing of this vault waits"):
        await owner.commit([owner.write("other", author=hall.identity().id)], again=True)
    await adopt(hall)
    plan = m.PlanRequest(vault=owner.vault.id, items=[m.PlanItem(size=100)])
    assert (await owner.ask(routes.PLAN, plan)).unread
    assert (await owner.ref("name")).unread
    await owner.ask(routes.PACKS_READ, m.PacksRead(digests=[BASE, digest_of("unknown")]), owner.path())
    assert not (await owner.ask(routes.PLAN, plan)).unread
    with pytest.raises(Denied):
        await owner.commit([owner.write("other", author=hall.identity().id)], again=True)


async def test_the_highest_version_counts_and_the_others_are_history(hall: Hall) -> None:
    owner = hall.owner
    first = owner.write("name")
    second = owner.write("name", over=first.record)
    assert await owner.states([first], [second]) == [["committed"], ["committed"]]
    await adopt(hall)
    lost_device = hall.identity().id
    older = owner.write("name", author=lost_device)  # another version 1, that was lost
    newer = owner.write("name", version=5, previous=second.etag, author=lost_device)
    assert await owner.states([older], again=True) == [["committed"]]
    assert (await owner.ref("name")).record == second.record
    assert await owner.states([newer], again=True) == [["committed"]]
    between = owner.write("name", version=3, previous=second.etag, author=lost_device)
    assert await owner.states([between], again=True) == [["committed"]]
    assert (await owner.ref("name")).record == newer.record, "nothing newer is overwritten"
    assert await versions(hall, owner, "name") == [5, 3, 2, 1]
    past = await owner.ask(routes.REF_HISTORY, None, owner.path("name"))
    assert [one.record for one in past.versions[1:]] == [between.record, second.record, first.record], (
        "what was committed stays so"
    )
    assert await owner.states([newer], [second], again=True) == [["committed"], ["committed"]], "twice is once"
    assert (await owner.ref("name")).record == newer.record
    found = await owner.ask(routes.VAULT_PACKS, m.VaultPacksQuery(unread=True), owner.path())
    assert [pack.digest for pack in found.packs] == [BASE]
    assert tag_of("name") == parse_record(newer.record).clear.name_tag
