"""Letting go over a running coordinator: leases, history, trash; and what must never be let go."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from tests.coordinator.hall import Hall, digest_of

from holdfast.codec.refs import RefKind, etag
from holdfast.coordinator import collect
from holdfast.metadata import queries_packs
from holdfast.metadata.tables import PackState
from holdfast.wire import messages as m
from holdfast.wire import routes

DAY = 86400.0


async def state_of(hall: Hall, name: str) -> PackState:
    [row] = await hall.run(queries_packs.packs_by_digest, [digest_of(name)])
    return PackState(row.state)


async def release(hall: Hall) -> None:
    await hall.run(collect.release, hall.coordinator.state.slow_now())


async def days_pass(hall: Hall, days: int) -> None:
    """A day at a time, saved like a coordinator that runs saves it."""
    for _ in range(days):
        hall.clock.skip(DAY)
        await hall.coordinator.state.save()


async def test_a_deleted_ref_keeps_its_packs_for_seven_days_and_then_no_longer(hall: Hall) -> None:
    owner = hall.owner
    later = hall.clock.now() + 30 * DAY
    await owner.ask(
        routes.DEVICES, m.DeviceRequest(certificate=owner.certificate(not_after=int(later)))
    )  # a certificate that lasts
    first = owner.write("a", [digest_of("a")])
    await owner.commit([first], packs=[hall.pack("a")])
    tombstone = owner.write("a", over=first.record, kind=RefKind.TOMBSTONE)
    assert await owner.states([tombstone]) == [["committed"]]
    await days_pass(hall, 6)
    await release(hall)
    assert await state_of(hall, "a") is PackState.LIVE
    history = await owner.ask(routes.REF_HISTORY, None, owner.path("a"))
    left = history.versions[1].until
    assert left is not None
    assert 0.9 * DAY < left <= DAY
    await days_pass(hall, 1)
    await release(hall)
    assert await state_of(hall, "a") is PackState.RELEASED
    assert await state_of(hall, "base") is PackState.LIVE  # the tombstone's
    history = await owner.ask(routes.REF_HISTORY, None, owner.path("a"))
    assert [version.record for version in history.versions] == [tombstone.record]
    assert await owner.states([owner.write("b", [digest_of("a")])]) == [["committed"]]
    assert await state_of(hall, "a") is PackState.LIVE


async def test_a_tombstone_shrinks_to_its_version_and_versions_count_on(hall: Hall) -> None:
    owner = hall.owner
    await owner.ask(
        routes.DEVICES, m.DeviceRequest(certificate=owner.certificate(not_after=int(hall.clock.now() + 400 * DAY)))
    )
    first = owner.write("a", [digest_of("a")])
    await owner.commit([first], packs=[hall.pack("a")])
    page = await owner.ask(routes.REFS, m.RefQuery(trash=True), owner.path())
    assert (page.records, page.kept) == ([], [])
    tombstone = owner.write("a", [digest_of("t")], over=first.record, kind=RefKind.TOMBSTONE)
    assert await owner.states([tombstone], packs=[hall.pack("t")]) == [["committed"]]
    page = await owner.ask(routes.REFS, m.RefQuery(trash=True), owner.path())
    assert page.records == [tombstone.record]
    assert [kept.record for kept in page.kept] == [first.record]
    assert page.kept[0].until == pytest.approx(7 * DAY, rel=0.01)
    await days_pass(hall, 89)
    await release(hall)
    assert (await owner.ref("a")).record == tombstone.record
    assert await state_of(hall, "t") is PackState.LIVE
    page = await owner.ask(routes.REFS, m.RefQuery(trash=True), owner.path())
    assert page.records == []  # nothing to restore any more
    await days_pass(hall, 1)
    await release(hall)
    answer = await owner.ref("a")
    assert (answer.record, answer.version, answer.etag) == (b"", 2, etag(tombstone.record))
    assert await state_of(hall, "t") is PackState.RELEASED
    await days_pass(hall, 200)
    await release(hall)
    [[result]] = await owner.commit([owner.write("a", [digest_of("b")])], packs=[hall.pack("b")])
    assert (result.state, result.record, result.version, result.etag) == ("conflict", None, 2, etag(tombstone.record))
    third = owner.write("a", [digest_of("b")], over=tombstone.record)
    assert await owner.states([third]) == [["committed"]]
    history = await owner.ask(routes.REF_HISTORY, None, owner.path("a"))
    assert [version.record for version in history.versions] == [third.record]
    again = owner.write("a", over=third.record, kind=RefKind.TOMBSTONE)
    assert await owner.states([again]) == [["committed"]]
    await days_pass(hall, 91)
    await release(hall)
    assert (await owner.ref("a")).version == 4


async def test_a_lease_that_ends_releases_and_trash_frees_the_quota(hall: Hall) -> None:
    owner = hall.owner
    await owner.ask(routes.REGISTER, m.RegisterRequest(vault=owner.vault.id, packs=[hall.pack("a")]))
    await release(hall)
    assert await state_of(hall, "a") is PackState.LEASED
    hall.clock.skip(DAY + 2)
    await release(hall)
    assert await state_of(hall, "a") is PackState.RELEASED
    [trashed] = await hall.run(collect.trash)
    assert trashed.digest == digest_of("a")
    assert len(trashed.places) == 5
    assert await hall.run(collect.trash) == []
    assert await hall.run(collect.forget) == 0
    await hall.run(lambda connection: connection.execute(text("DELETE FROM placements")))
    assert await hall.run(collect.forget) == 1
    assert await state_of(hall, "a") is PackState.GONE
    assert (await hall.run(lambda connection: connection.execute(text("SELECT used FROM vaults")).scalar_one())) == 0


async def test_trash_checks_again_that_nothing_holds_a_released_pack(hall: Hall) -> None:
    owner = hall.owner
    await owner.commit([owner.write("a", [digest_of("a")])], packs=[hall.pack("a"), hall.pack("b")])
    await owner.ask(routes.REGISTER, m.RegisterRequest(vault=owner.vault.id, packs=[hall.pack("c")]))
    await hall.run(lambda connection: connection.execute(text("UPDATE packs SET state = 3")))  # as if by mistake
    assert await hall.run(collect.trash) == []


async def test_a_pack_that_another_name_keeps_is_not_released(hall: Hall) -> None:
    owner = hall.owner
    first = owner.write("a", [digest_of("a"), digest_of("b")])
    await owner.commit([first], [owner.write("b", [digest_of("b")])], packs=[hall.pack("a"), hall.pack("b")])
    assert await owner.states([owner.write("a", over=first.record, kind=RefKind.TOMBSTONE)]) == [["committed"]]
    await days_pass(hall, 8)
    await release(hall)
    assert await state_of(hall, "a") is PackState.RELEASED
    assert await state_of(hall, "b") is PackState.LIVE


async def test_the_slow_clock_gains_at_most_a_day_over_a_restart(hall: Hall) -> None:
    before = hall.coordinator.state.slow_now()
    await hall.stop()
    hall.clock.skip(30 * DAY)
    await hall.start()
    assert DAY <= hall.coordinator.state.slow_now() - before < DAY + 60
