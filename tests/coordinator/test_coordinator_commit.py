"""Commits over HTTP: receipts, compare-and-set, groups, replays, packs that are gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.coordinator.hall import Device, Hall, digest_of, tag_of

from holdfast.auth.certificates import READ, WRITE
from holdfast.auth.documents import sign
from holdfast.auth.positions import Position
from holdfast.blob import Digest
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, Denied, NotFound, PacksGone, QuotaExceeded, StaleEpoch, Unauthorized
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.serve import Call

COMMITTED = [["committed"]]


async def test_put_then_read(hall: Hall) -> None:
    owner = hall.owner
    plan = await owner.ask(routes.PLAN, m.PlanRequest(vault=owner.vault.id, items=[m.PlanItem(size=1000)]))
    assert (plan.wanted, plan.least) == (5, 5)
    assert len(plan.items[0].candidates) == 6
    written = owner.write("a", [digest_of("a")])
    assert await owner.states([written], packs=[hall.pack("a")]) == COMMITTED
    found = await owner.ref("a")
    assert found.record == written.record
    assert found.keep == written.keep
    assert len(found.packs[0].nodes) == 5
    assert {found.nodes[number].id for number in found.packs[0].nodes} == {node.id for node in hall.nodes[:5]}


# --- receipts ---------------------------------------------------------------------------------------------------------


async def test_commit_with_one_receipt_too_few_is_refused(hall: Hall) -> None:
    owner = hall.owner
    written = owner.write("a", [digest_of("a")])
    [[result]] = await owner.commit([written], packs=[hall.pack("a", copies=4)])
    assert result == m.RefResult(state="packs-gone", packs=[digest_of("a")])
    with pytest.raises(NotFound):
        await owner.ref("a")
    with pytest.raises(PacksGone):
        await owner.ask(routes.REGISTER, m.RegisterRequest(vault=owner.vault.id, packs=[hall.pack("a", copies=4)]))
    assert await owner.states([written], packs=[hall.pack("a")]) == COMMITTED


async def test_a_ref_that_asks_for_more_copies_gets_them_or_nothing(hall: Hall) -> None:
    owner = hall.owner
    written = owner.write("a", [digest_of("a")], survive=5)
    assert await owner.states([written], packs=[hall.pack("a", copies=5)]) == [["packs-gone"]]
    assert await owner.states([written], packs=[hall.pack("a", copies=6)]) == COMMITTED


async def test_degraded_takes_what_is_there_but_not_less_than_the_floor(hall: Hall) -> None:
    owner = hall.owner
    written = owner.write("a", [digest_of("a")])
    assert await owner.states([written], packs=[hall.pack("a", copies=1)], allow_degraded=True) == [["packs-gone"]]
    assert await owner.states([written], packs=[hall.pack("a", copies=2)], allow_degraded=True) == COMMITTED
    status = await owner.ask(routes.STATUS)
    assert (status.packs.degraded, status.packs.floor, status.may_die) == (1, 1, 1)


async def test_an_order_beside_a_look_forgets_no_pack_that_lacks_copies(hall: Hall) -> None:
    """What a degraded commit left to repair is known to one look only; the next one goes on from there."""
    owner, repair = hall.owner, hall.coordinator.repair
    await owner.ask(routes.REPAIR, m.RepairOrder(order="pause"))
    written = owner.write("a", [digest_of("a")])
    assert await owner.states([written], packs=[hall.pack("a", copies=2)], allow_degraded=True) == COMMITTED
    await asyncio.gather(repair.unit(), repair.unit())
    assert (await owner.ask(routes.REPAIR, m.RepairOrder(order="pause"))).due_packs == 1


@pytest.mark.parametrize(
    "forged",
    [{"digest": digest_of("other")}, {"size": 999}, {"sequence": -1}],
    ids=["digest", "size", "sequence"],
)
async def test_a_receipt_for_something_else_refuses_the_commit(hall: Hall, forged: dict[str, Any]) -> None:
    pack = hall.pack("a")
    receipts = [*pack.receipts[:4], hall.nodes[4].receipt(digest_of("a"), 1000, **forged)]
    packs = [m.PackReceipts(digest=pack.digest, size=pack.size, receipts=receipts)]
    with pytest.raises((BadRequest, Denied)):
        await hall.owner.commit([hall.owner.write("a", [pack.digest])], packs=packs)


async def test_a_receipt_in_another_nodes_name_refuses_the_commit(hall: Hall) -> None:
    pack = hall.pack("a")
    receipts = [*pack.receipts[:4], hall.nodes[4].receipt(pack.digest, pack.size, node=hall.nodes[5].id)]
    packs = [m.PackReceipts(digest=pack.digest, size=pack.size, receipts=receipts)]
    with pytest.raises(Denied, match="not signed by its node"):
        await hall.owner.commit([hall.owner.write("a", [pack.digest])], packs=packs)


async def test_an_altered_receipt_refuses_the_commit(hall: Hall) -> None:
    pack = hall.pack("a")
    bent = bytearray(pack.receipts[0])
    bent[-1] ^= 1
    packs = [m.PackReceipts(digest=pack.digest, size=pack.size, receipts=[bytes(bent), *pack.receipts[1:]])]
    with pytest.raises(Denied):
        await hall.owner.commit([hall.owner.write("a", [pack.digest])], packs=packs)


@pytest.mark.parametrize("kind", ["same node twice", "another store", "too old", "unknown node"])
async def test_a_receipt_that_does_not_count_is_one_too_few(hall: Hall, kind: str) -> None:
    pack = hall.pack("a")
    node = hall.nodes[4]
    if kind == "same node twice":
        last = hall.nodes[0].receipt(pack.digest, pack.size)
    elif kind == "another store":
        last = node.receipt(pack.digest, pack.size, store=bytes(16))
    elif kind == "too old":
        last = node.receipt(pack.digest, pack.size, time=int(hall.clock.now()) - 2 * 86400)
    else:
        node.identity = hall.identity()
        last = node.receipt(pack.digest, pack.size, node=node.identity.id)
    packs = [m.PackReceipts(digest=pack.digest, size=pack.size, receipts=[*pack.receipts[:4], last])]
    written = hall.owner.write("a", [pack.digest])
    assert await hall.owner.states([written], packs=packs) == [["packs-gone"]]


async def test_two_nodes_on_one_store_are_one_copy(bare_hall: Hall) -> None:
    await bare_hall.make(survive=1, nodes=2)
    twin = await bare_hall.add_node("twin", store=bare_hall.nodes[1].store)
    owner = bare_hall.owner
    pack = bare_hall.pack("a", first=1)  # the second node and its twin
    assert twin.store == bare_hall.nodes[1].store
    assert await owner.states([owner.write("a", [pack.digest])], packs=[pack]) == [["packs-gone"]]
    assert await owner.states([owner.write("b", [digest_of("b")])], packs=[bare_hall.pack("b")]) == COMMITTED


# --- compare and set --------------------------------------------------------------------------------------------------


async def test_versions_follow_each_other_and_a_conflict_brings_the_present(hall: Hall) -> None:
    owner = hall.owner
    first = owner.write("a", [digest_of("a")])
    assert await owner.states([first], packs=[hall.pack("a")]) == COMMITTED
    rival = owner.write("a", [digest_of("a")])
    [[result]] = await owner.commit([rival])
    assert result == m.RefResult(state="conflict", record=first.record)
    second = owner.write("a", [digest_of("a")], over=first.record)
    late = owner.write("a", [digest_of("a")], over=first.record)
    skipping = owner.write("a", [digest_of("a")], over=first.record, version=3)
    assert await owner.states([skipping]) == [["conflict"]]
    assert await owner.states([second]) == COMMITTED
    assert await owner.states([late]) == [["conflict"]]
    history = await owner.ask(routes.REF_HISTORY, None, owner.path("a"))
    assert [version.record for version in history.versions] == [second.record, first.record]
    assert history.versions[0].until is None
    assert history.versions[1].until is not None


async def test_a_first_version_that_names_a_previous_one_is_a_conflict(hall: Hall) -> None:
    owner = hall.owner
    ghost = owner.write("a")
    [[result]] = await owner.commit([owner.write("a", over=ghost.record)])
    assert result == m.RefResult(state="conflict", record=None)


async def test_a_replay_is_committed_also_when_it_was_replaced_since(hall: Hall) -> None:
    owner = hall.owner
    first = owner.write("a", [digest_of("a")])
    packs = [hall.pack("a")]
    assert await owner.states([first], packs=packs) == COMMITTED
    position = hall.coordinator.state.position.commit
    assert await owner.states([first]) == COMMITTED
    assert hall.coordinator.state.position.commit == position
    assert await owner.states([owner.write("a", [digest_of("a")], over=first.record)]) == COMMITTED
    assert await owner.states([first]) == COMMITTED
    assert (await owner.ref("a")).record != first.record


async def test_a_tombstone_deletes_and_versions_go_on_over_it(hall: Hall) -> None:
    owner = hall.owner
    first = owner.write("a", [digest_of("a")])
    assert await owner.states([first], packs=[hall.pack("a")]) == COMMITTED
    tombstone = owner.write("a", over=first.record, kind=RefKind.TOMBSTONE)
    assert await owner.states([tombstone]) == COMMITTED
    assert (await owner.ref("a")).record == tombstone.record
    page = await owner.ask(routes.REFS, m.RefQuery(), owner.path())
    assert page.records == []
    assert await owner.states([owner.write("a", [digest_of("a")])]) == [["conflict"]]
    again = owner.write("a", [digest_of("a")], over=tombstone.record)
    assert await owner.states([again]) == COMMITTED
    page = await owner.ask(routes.REFS, m.RefQuery(), owner.path())
    assert page.records == [again.record]


# --- groups and ancestors ---------------------------------------------------------------------------------------------


async def test_a_group_falls_together_and_the_other_groups_stand(hall: Hall) -> None:
    owner = hall.owner
    taken = owner.write("taken")
    assert await owner.states([taken]) == COMMITTED
    rival, innocent, other = owner.write("taken"), owner.write("innocent"), owner.write("other")
    assert await owner.states([innocent, rival], [other]) == [["not-done", "conflict"], ["committed"]]
    with pytest.raises(NotFound):
        await owner.ref("innocent")
    assert (await owner.ref("other")).record == other.record


async def test_a_move_is_one_group(hall: Hall) -> None:
    owner = hall.owner
    old = owner.write("old", [digest_of("a")])
    assert await owner.states([old], packs=[hall.pack("a")]) == COMMITTED
    gone = owner.write("old", over=old.record, kind=RefKind.TOMBSTONE)
    new = owner.write("new", [digest_of("a")])
    assert await owner.states([gone, new]) == [["committed", "committed"]]
    assert (await owner.ref("new")).record == new.record


async def test_a_missing_ancestor_is_made_and_one_that_is_there_is_success(hall: Hall) -> None:
    owner = hall.owner

    async def put(file: str, directory: Any) -> list[list[m.RefResult]]:
        changes = [
            m.RefChange(record=directory.record, ancestor=True),
            m.RefChange(record=owner.write(file, [digest_of("a")]).record),
        ]
        keeps = [directory.keep, owner.write("x", [digest_of("a")]).keep]
        return await owner.commit(packs=[hall.pack("a")], groups=[changes], keeps=keeps)

    first = owner.write("d", kind=RefKind.DIRECTORY)
    results = await put("d/a", first)
    assert [result.state for result in results[0]] == ["committed", "committed"]
    results = await put("d/b", owner.write("d", kind=RefKind.DIRECTORY))
    assert [result.state for result in results[0]] == ["committed", "committed"]
    assert (await owner.ref("d")).record == first.record
    file_in_the_way = owner.write("d/a", kind=RefKind.DIRECTORY)
    [[there, innocent]] = await put("d/a/c", file_in_the_way)
    assert (there.state, innocent.state) == ("conflict", "not-done")


async def test_only_directories_are_ancestors(hall: Hall) -> None:
    owner = hall.owner
    with pytest.raises(BadRequest, match="ancestors"):
        await owner.commit(groups=[[m.RefChange(record=owner.write("a").record, ancestor=True)]], keeps=[])


# --- packs that are known, or gone ------------------------------------------------------------------------------------


async def test_refs_with_unknown_packs_or_lists_are_told_and_the_others_stand(hall: Hall) -> None:
    owner = hall.owner
    good = owner.write("good", [digest_of("a")])
    bad = owner.write("bad", [digest_of("a"), digest_of("missing")])
    [[one], [two]] = await owner.commit([good], [bad], packs=[hall.pack("a")])
    assert one.state == "committed"
    assert two == m.RefResult(state="packs-gone", packs=[digest_of("missing")])
    unsent = owner.write("unsent", [digest_of("a"), digest_of("b")])
    assert await owner.commit([unsent], keeps=[]) == [[m.RefResult(state="packs-gone")]]
    known = owner.write("known", [digest_of("a")])
    assert await owner.states([known], keeps=[]) == COMMITTED


async def test_registered_packs_are_leased_and_committed_without_receipts(hall: Hall) -> None:
    owner = hall.owner
    registered = await owner.ask(
        routes.REGISTER, m.RegisterRequest(vault=owner.vault.id, packs=[hall.pack("a"), hall.pack("b")])
    )
    assert registered.lease_until > hall.clock.now() + 86000
    plan = await owner.ask(
        routes.PLAN,
        m.PlanRequest(
            vault=owner.vault.id,
            items=[m.PlanItem(size=1000, digest=digest_of("a")), m.PlanItem(size=1000, digest=digest_of("c"))],
        ),
    )
    assert [slot.have for slot in plan.items] == [True, False]
    written = owner.write("a", [digest_of("a"), digest_of("b")])
    assert await owner.states([written], known=[digest_of("a")]) == COMMITTED


async def test_a_silent_node_does_not_make_known_packs_be_sent_again(hall: Hall) -> None:
    owner = hall.owner
    assert await owner.states([owner.write("a", [digest_of("a")])], packs=[hall.pack("a")]) == COMMITTED
    for node in hall.nodes[:3]:
        await node.beat(leaving=True)
    assert await owner.states([owner.write("b", [digest_of("a")])]) == COMMITTED
    await hall.nodes[3].beat(leaving=True)  # one live copy is left: at the floor nothing is built upon it
    [[result]] = await owner.commit([owner.write("c", [digest_of("a")])])
    assert result == m.RefResult(state="packs-gone", packs=[digest_of("a")])


async def test_packs_of_another_vault_are_as_unknown(hall: Hall) -> None:
    owner = hall.owner
    assert await owner.states([owner.write("a", [digest_of("a")])], packs=[hall.pack("a")]) == COMMITTED
    other = Device(hall, hall.identity(), hall.identity())
    await other.join(await owner.invite("user"))
    assert await other.states([other.write("a", [digest_of("a")])]) == [["packs-gone"]]
    with pytest.raises(Denied, match="another vault"):
        await other.commit([other.write("a", [digest_of("a")])], packs=[hall.pack("a")])
    plan = await other.ask(
        routes.PLAN, m.PlanRequest(vault=other.vault.id, items=[m.PlanItem(size=1000, digest=digest_of("a"))])
    )
    assert not plan.items[0].have
    with pytest.raises(Denied, match="does not belong"):
        await other.ask(routes.REF, None, owner.path("a"))


async def test_a_pack_has_one_size(hall: Hall) -> None:
    owner = hall.owner
    assert await owner.states([owner.write("a", [digest_of("a")])], packs=[hall.pack("a")]) == COMMITTED
    with pytest.raises(BadRequest, match="bytes"):
        await owner.commit(packs=[hall.pack("a", size=2000)])


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_records_and_lists_are_signed_by_their_author(hall: Hall) -> None:
    owner = hall.owner
    with pytest.raises(Denied, match="signature"):
        await owner.commit([owner.write("a")], signature=bytes(64))
    with pytest.raises(Denied, match="another device"):
        await owner.commit([owner.write("a", author=hall.nodes[0].id)])
    with pytest.raises(Denied, match="another vault"):
        await owner.commit([owner.write("a", vault=hall.nodes[0].id)])
    with pytest.raises(BadRequest):
        await owner.commit(groups=[[m.RefChange(record=b"no record")]], keeps=[])


async def test_rights_are_those_of_the_certificate(hall: Hall) -> None:
    owner = hall.owner
    reader = Device(hall, hall.identity(), owner.vault)
    writer = Device(hall, hall.identity(), owner.vault)
    for device, rights in ((reader, READ), (writer, WRITE)):
        await owner.ask(routes.DEVICES, m.DeviceRequest(certificate=device.certificate(rights)))
    written = writer.write("a")
    assert await writer.states([written]) == COMMITTED
    assert (await reader.ref("a")).record == written.record
    with pytest.raises(Denied, match="may not read"):
        await writer.ref("a")
    with pytest.raises(Denied, match="may not delete"):
        await writer.commit([writer.write("a", over=written.record, kind=RefKind.TOMBSTONE)])
    with pytest.raises(Denied, match="may not"):
        await reader.commit([reader.write("b")])
    stranger = Device(hall, hall.identity(), hall.identity())
    with pytest.raises(Unauthorized, match="not known"):
        await stranger.commit([stranger.write("a")])
    with pytest.raises(Unauthorized):
        await stranger.ask(routes.STATUS)


async def test_a_quota_is_kept(hall: Hall) -> None:
    other = Device(hall, hall.identity(), hall.identity())
    await other.join(await hall.owner.invite("user", quota=1500))
    assert await other.states([other.write("a", [digest_of("a")])], packs=[hall.pack("a")]) == COMMITTED
    with pytest.raises(QuotaExceeded):
        await other.commit([other.write("b", [digest_of("b")])], packs=[hall.pack("b")])
    with pytest.raises(QuotaExceeded):
        await other.ask(routes.PLAN, m.PlanRequest(vault=other.vault.id, items=[m.PlanItem(size=501)]))
    assert await other.states([other.write("b", [digest_of("a")])], packs=[hall.pack("a")]) == COMMITTED


# --- position ---------------------------------------------------------------------------------------------------------


async def test_the_commit_number_rises_and_survives_a_restart(hall: Hall) -> None:
    owner = hall.owner
    owner.http.set_clock_source(hall.target.id)
    before = hall.coordinator.state.position.current
    for name in "abc":
        assert await owner.states([owner.write(name)]) == COMMITTED
    assert hall.coordinator.state.position.current == (before[0], before[1] + 3)
    await hall.restart()
    assert hall.coordinator.state.position.current == (before[0], before[1] + 3)
    assert owner.http.epoch == (before[0], before[1] + 3)


async def test_a_device_that_heard_of_more_is_refused_alone(hall: Hall) -> None:
    owner = hall.owner
    epoch, commit = hall.coordinator.state.position.current
    with pytest.raises(StaleEpoch):
        await owner.commit([owner.write("a")], epoch=epoch, commit=commit + 1)
    assert await owner.states([owner.write("a")]) == COMMITTED


async def test_a_node_that_heard_of_more_stops_all_writes_and_no_reads(hall: Hall) -> None:
    owner = hall.owner
    written = owner.write("a")
    assert await owner.states([written]) == COMMITTED
    state = hall.coordinator.state
    epoch = state.position.epoch + 1
    word = sign(Position(epoch=epoch, commit=0), state.identity)
    assert (await hall.nodes[0].beat(epoch=epoch)).position == state.position.signed
    assert not state.position.stale, "it is asked for the coordinator's word"
    await hall.nodes[0].beat(epoch=epoch, position=word)
    for _ in range(2):
        with pytest.raises(StaleEpoch, match="recover"):
            await owner.commit([owner.write("b")])
        with pytest.raises(StaleEpoch):
            await owner.ask(routes.PLAN, m.PlanRequest(vault=owner.vault.id, items=[m.PlanItem(size=1)]))
        assert (await owner.ref("a")).record == written.record
        await hall.restart()


async def test_a_node_that_only_says_it_has_heard_of_more_changes_nothing(
    hall: Hall, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, liar = hall.owner, hall.nodes[0]
    far = Position(epoch=(1 << 63) - 1, commit=0)
    invented = [b"", b"nothing", sign(far, liar.identity), sign(far, owner.identity)]
    own = hall.coordinator.state.position.signed  # it proves what is known
    altered = own[:40] + bytes([own[40] ^ 1]) + own[41:]
    for word in [*invented, own, altered]:
        assert (await liar.beat(epoch=far.epoch, position=word)).state == "up"
    assert capsys.readouterr().err.count("position_not_proven") == 1

    async def lie(call: Call, _: None) -> m.NodeOverview:
        space = m.NodeSpace(used=0, cached=0, trash=0, reclaimable=0, incoming=0, reserve=0, free=1)
        return m.NodeOverview(
            id=liar.id, name=liar.name, version="1", store=liar.store, state="up", capacity=1, space=space, blobs=0,
            sequence=0, epoch=far.epoch, commit=0, position=invented[2],
        )  # fmt: skip

    liar.service.add(routes.INFO, lie)
    await hall.restart()
    for node in hall.nodes:
        await node.beat()
    assert await owner.states([owner.write("a", [digest_of("a")])], packs=[hall.pack("a")]) == COMMITTED
    assert "position_not_proven" in capsys.readouterr().err, "it was asked at the start"


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_pages_go_through_a_directory_and_through_a_vault(hall: Hall) -> None:
    owner = hall.owner
    names = [f"d/{number}" for number in range(7)]
    written = [[owner.write(name, [digest_of("a")], parent="d")] for name in names]
    elsewhere = owner.write("e", [digest_of("a")], parent="")
    await owner.commit(*written, [elsewhere], packs=[hall.pack("a")])

    async def everything(parent: str | None) -> list[bytes]:
        records: list[bytes] = []
        after: str | None = None
        while True:
            page = await owner.ask(routes.REFS, m.RefQuery(parent=parent, after=after, limit=3), owner.path())
            assert [place.digest for place in page.packs] == [digest_of("a")]
            records += page.records
            after = page.after
            if after is None:
                return records

    by_tag = sorted(range(7), key=lambda number: tag_of(names[number]))
    assert await everything(tag_of("directory d").hex()) == [written[number][0].record for number in by_tag]
    assert len(await everything(None)) == 8


async def test_a_vaults_packs_are_listed_with_their_places(hall: Hall) -> None:
    owner = hall.owner
    await owner.commit(packs=[hall.pack(str(number)) for number in range(5)])
    found: list[Digest] = []
    after: str | None = None
    while True:
        page = await owner.ask(routes.VAULT_PACKS, m.VaultPacksQuery(after=after, limit=2), owner.path())
        assert all(len(place.nodes) == 5 for place in page.packs)
        found += [place.digest for place in page.packs]
        after = page.after
        if after is None:
            break
    assert found == sorted(digest_of(str(number)) for number in range(5))


@pytest.mark.parametrize("tag", ["x", "0" * 63, "0" * 65, "g" * 64, "A" * 64])
async def test_a_tag_that_is_none_is_refused(hall: Hall, tag: str) -> None:
    with pytest.raises(BadRequest):
        await hall.owner.ask(routes.REF, None, {"vault": str(hall.owner.vault.id), "tag": tag})


async def test_commits_at_the_same_moment_see_each_other(hall: Hall) -> None:
    owner = hall.owner
    rivals = [owner.write("a", [digest_of("a")]) for _ in range(20)]
    results = await asyncio.gather(*(owner.states([rival], packs=[hall.pack("a")]) for rival in rivals))
    assert sorted(result[0][0] for result in results) == ["committed"] + ["conflict"] * 19
    status = await owner.ask(routes.STATUS)
    assert (status.packs.total, status.packs.healthy, status.may_die) == (1, 1, 4)


async def test_many_names_are_asked_for_at_once(hall: Hall) -> None:
    """Each as if it was asked for alone; a name of very many packs only says so."""
    owner = hall.owner
    many = [digest_of(f"part {number}") for number in range(9)]
    await owner.commit([owner.write("a", [digest_of("a")])], packs=[hall.pack("a")])
    await owner.commit([owner.write("large", many)], packs=[hall.pack(f"part {number}") for number in range(9)])
    tags = [Digest(tag_of(name)) for name in ("a", "nothing", "large", "a")]
    answer = await owner.ask(routes.REFS_FIND, m.RefsQuestion(tags=tags), owner.path())
    alone = await owner.ref("a")
    first, nothing, large, again = answer.refs
    assert (first.record, first.keep) == (again.record, again.keep) == (alone.record, alone.keep)
    assert (nothing, large) == (m.FoundRef(), m.FoundRef(large=True))
    assert (answer.packs, answer.nodes) == (alone.packs, alone.nodes)
    for wrong in ([], [*tags * 16, tags[0]]):
        with pytest.raises(BadRequest):
            await owner.ask(routes.REFS_FIND, m.RefsQuestion(tags=wrong), owner.path())
    other = Device(hall, hall.identity(), hall.identity())
    await other.join(await owner.invite("user"))
    with pytest.raises(Denied, match="does not belong"):
        await other.ask(routes.REFS_FIND, m.RefsQuestion(tags=tags), owner.path())
