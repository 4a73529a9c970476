"""A node's start, crash, end, and its talk with the coordinator."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest
from tests.node.house import COORDINATOR, DEVICE, SETTINGS, STRANGER, VAULT, House, pack

from holdfast.auth.documents import sign
from holdfast.auth.identity import Identity
from holdfast.auth.invites import Invite, check_proof, proof
from holdfast.auth.positions import Position
from holdfast.blob import Digest
from holdfast.clock import SystemRandomness
from holdfast.errors import BadConfig, Denied, NotFound, StaleEpoch, Unavailable
from holdfast.files import OsFiles
from holdfast.node.agent import join
from holdfast.node.layout import init_node, open_node
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.membership import Membership
from holdfast.node.settings import NodeSettings
from holdfast.pool import InlinePool
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.protocol import put_bytes
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.serve import Call


async def reconciled(house: House) -> None:
    async with asyncio.timeout(10):
        while not house.running.keeper.reconciled:  # noqa: ASYNC110 - the node has no event for it
            await asyncio.sleep(0.005)


async def test_a_clean_restart_keeps_all_and_compares_nothing(house: House) -> None:
    blobs = [pack(VAULT.id, 1000, number) for number in range(5)]
    receipts = [await house.put(data) for data in blobs]
    root = house.running.ledger.roots.root
    await house.stop()
    node = await house.start()
    assert node.ledger.clean
    assert node.keeper.reconciled
    assert node.ledger.roots.root == root
    for data in blobs:
        assert await house.get(Digest.of(data)) == data
    again = await house.put(blobs[0])
    assert again.sequence > max(receipt.sequence for receipt in receipts)


async def test_after_a_crash_all_that_was_acknowledged_is_there(house: House) -> None:
    blobs = [pack(VAULT.id, 1000 + 70_000 * (number % 2), number) for number in range(8)]
    highest = 0
    for round_ in range(3):
        for data in blobs:
            receipt = await house.put(data)
            assert receipt.sequence > highest
            highest = receipt.sequence
        await house.crash()
        await house.start()
        assert not house.running.ledger.clean
        for data in blobs:
            assert await house.get(Digest.of(data)) == data
        await reconciled(house)
        assert house.running.reconciler.adopted == 0
        assert house.running.reconciler.missing == 0
        assert round_ < 3


async def test_a_blob_without_a_row_is_adopted(house: House) -> None:
    """As after a kill between the store's sync and the ledger's."""
    data, foreign = pack(VAULT.id, 5000), b"no pack at all" * 10
    await put_bytes(house.running.store, data)
    await put_bytes(house.running.store, foreign)
    await house.crash()
    node = await house.start()
    assert await house.get(Digest.of(data)) == data  # served already, compared or not
    await reconciled(house)
    entry = await node.ledger.find(Digest.of(data))
    assert entry is not None
    assert (entry.vault, entry.kept, entry.size) == (VAULT.id, "vault", 5000)
    entry = await node.ledger.find(Digest.of(foreign))
    assert entry is not None
    assert (entry.vault, entry.kept) == (None, "unknown")
    assert node.ledger.roots.count == 2
    with pytest.raises(NotFound):
        await house.get(Digest.of(foreign))


async def test_a_row_without_a_blob_is_marked(house: House) -> None:
    blobs = [pack(VAULT.id, 1000, number) for number in range(4)]
    for data in blobs:
        await house.put(data)
    await house.crash()
    house.blob_path(Digest.of(blobs[2])).unlink()
    node = await house.start()
    await reconciled(house)
    assert node.ledger.roots.count == 3
    entry = await node.ledger.find(Digest.of(blobs[2]))
    assert entry is not None
    assert not entry.here
    assert entry.sequence == node.ledger.sequence


async def test_a_lost_ledger_is_rebuilt_while_the_node_serves(house: House) -> None:
    blobs = [pack(VAULT.id, 1000, number) for number in range(30)]
    receipts = [await house.put(data) for data in blobs]
    root = house.running.ledger.roots.root
    await house.stop()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (house.path / name).unlink(missing_ok=True)
    node = await house.start()
    assert await house.get(Digest.of(blobs[-1])) == blobs[-1]
    await reconciled(house)
    assert node.ledger.roots.root == root
    highest = max(receipt.sequence for receipt in receipts)
    assert all(row.sequence > highest and row.vault == VAULT.id for row in await node.ledger.changes(0, 100))


async def test_a_crash_before_the_comparison_ended_is_no_clean_stop(house: House) -> None:
    await house.put(pack(VAULT.id, 1000))
    await house.crash()
    node = await house.start()
    await node._reconcile_worker.stop()
    node.keeper.reconciled = False
    await house.stop()
    await house.start()
    assert not house.running.ledger.clean


async def test_heartbeats_say_what_the_node_holds(house: House) -> None:
    receipt = await house.put(pack(VAULT.id, 1000))
    await house.running.heart.unit()
    beat = house.coordinator.heartbeats[-1]
    assert (beat.sequence, beat.count, beat.root) == (receipt.sequence, 1, house.running.ledger.roots.root)
    assert beat.store == bytes.fromhex(house.running.store.id)
    assert house.coordinator.heartbeats[0].url == house.running.url
    assert beat.free > 0
    assert house.running.heart.state == "up"
    assert house.running.membership.epoch == house.coordinator.epoch
    assert Membership.load(house.path, files=OsFiles()).epoch == house.coordinator.epoch


async def test_an_idle_heartbeat_is_small_and_names_its_address_only_when_that_is_news(unmade_house: House) -> None:
    house = unmade_house
    await house.make()
    url = f"http://{'a-long-name.' * 40}example:7420"
    house.settings = NodeSettings(advertise=url)
    heart = (await house.start()).heart
    for _ in range(2):
        await heart.unit()
    beats = house.coordinator.heartbeats
    assert (beats[0].url, beats[-1].url) == (url, "")
    greatest = {"sequence": 1 << 53, "count": 1 << 32, "free": 1 << 53, "load": 9999, "commit": 1 << 48, "epoch": 9999}
    greatest |= {"unread": 1 << 32, "overdue": 1 << 48}
    assert len(m.encode(beats[-1])) <= len(m.encode(msgspec.structs.replace(beats[-1], **greatest))) <= 256
    house.coordinator.node_url = ""  # restarted, before it was written down
    for _ in range(2):
        await heart.unit()
    assert (beats[-2].url, beats[-1].url) == ("", url)


async def test_a_coordinator_of_a_lower_epoch_is_not_followed(house: House) -> None:
    house.running.membership.hear(5, 1, b"word")
    house.coordinator.epoch = (4, 900)
    await house.running.heart.unit()
    assert "old" in house.running.heart.reason
    with pytest.raises(StaleEpoch):
        house.running.membership.adopt(m.HeartbeatAnswer(state="up", time=0, settings=SETTINGS, epoch=4, commit=900))
    assert house.running.membership.epoch == (5, 1)


async def test_a_coordinator_that_is_behind_is_shown_what_it_has_signed(house: House) -> None:
    """Before that, and to others, a heartbeat holds no proof. A restart forgets it no more than the position."""
    coordinator = house.coordinator
    coordinator.position = sign(Position(epoch=3, commit=100), COORDINATOR)
    await house.running.heart.unit()
    envelope = house.grant(epoch=3, commit=120)
    await house.put(pack(VAULT.id, 1000), envelope)
    coordinator.epoch, coordinator.position = (3, 130), sign(Position(epoch=3, commit=130), COORDINATOR)
    await house.running.heart.unit()
    assert not any(beat.position for beat in coordinator.heartbeats)
    word, coordinator.epoch, coordinator.position = coordinator.position, (3, 60), b""
    await house.crash()
    await house.start()
    await house.running.heart.unit()
    assert [beat.position for beat in coordinator.heartbeats[-2:]] == [b"", word]
    overview = await house.client(COORDINATOR).call(house.target, routes.INFO)
    assert (overview.commit, overview.position) == (130, word)
    overview = await house.client(DEVICE).call(house.target, routes.INFO, grant=house.certificate())
    assert (overview.commit, overview.position) == (130, b"")


async def test_a_silent_coordinator_does_not_stop_the_node(house: House) -> None:
    data = pack(VAULT.id, 1000)
    await house.put(data)
    house.running.membership.urls = ["http://127.0.0.1:1"]
    await house.running.heart.unit()
    assert house.running.heart.reason
    assert await house.get(Digest.of(data)) == data
    house.running.membership.urls = ["http://127.0.0.1:1", house.coordinator.url]
    await house.running.heart.unit()
    assert house.running.heart.reason == ""
    assert house.running.membership.urls[0] == house.coordinator.url


async def test_the_network_s_interval_is_adopted(house: House) -> None:
    await house.running.heart.unit()
    assert house.running._heart_worker.interval_s == SETTINGS.heartbeat_interval


async def test_a_stop_says_goodbye_and_waits_for_what_is_under_way(house: House) -> None:
    data = pack(VAULT.id, 2 << 20)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> object:
        yield data[: 1 << 20]
        arrived.set()
        await go_on.wait()
        yield data[1 << 20 :]

    node = house.running
    put = asyncio.ensure_future(
        house.client().put_blob(house.target, Digest.of(data), len(data), slowly, grant=house.grant())  # type: ignore[arg-type]
    )
    await arrived.wait()
    stop = asyncio.ensure_future(house.stop())
    await asyncio.sleep(0.05)
    assert not stop.done()
    go_on.set()
    await put
    await stop
    assert house.coordinator.heartbeats[-1].leaving
    assert house.coordinator.heartbeats[-1].count == 1
    await node.stop()
    await house.start()
    assert await house.get(Digest.of(data)) == data


async def test_the_slow_clock_goes_on(house: House) -> None:
    await house.put(pack(VAULT.id, 1000))
    before = house.directory.load_clock()
    await house.stop()
    after = house.directory.load_clock()
    assert after.wall > before.wall
    assert after.elapsed >= before.elapsed


# -- layout


async def test_a_directory_without_a_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="mounted"):
        open_node(tmp_path, files=OsFiles())


async def test_a_foreign_or_missing_store_is_refused(house: House, tmp_path: Path) -> None:
    await house.stop()
    other = tmp_path / "other"
    await DiskStore.init(other, files=OsFiles(), pool=InlinePool(), randomness=SystemRandomness())
    right = (house.path / "layout.json").read_bytes()
    (house.path / "layout.json").write_bytes((other / "layout.json").read_bytes())
    with pytest.raises(BadConfig, match="mounted"):
        await house.start()
    (house.path / "layout.json").unlink()
    with pytest.raises(BadConfig, match="mounted"):
        await house.start()
    with pytest.raises(BadConfig, match="mounted"):
        house.directory.check_store("0" * 32)
    (house.path / "layout.json").write_bytes(right)
    assert house._running is not None
    await house.start()


async def test_a_node_is_made_once_and_its_key_is_private(house: House) -> None:
    assert (house.path / "identity.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadConfig, match="already"):
        init_node(
            house.path,
            files=OsFiles(),
            randomness=SystemRandomness(),
            name="x",
            domain="x",
            store_id="0" * 32,
        )


async def test_a_making_cut_short_is_finished_with_the_same_key(house: House) -> None:
    record, key = house.directory.record, house.directory.identity.id
    await house.stop()
    (house.path / "node.json").unlink()
    made = init_node(
        house.path,
        files=OsFiles(),
        randomness=SystemRandomness(),
        name=record.name,
        domain=record.domain,
        store_id=record.store_id,
    )
    assert made.identity.id == key


@pytest.mark.parametrize("name", ["identity.key", "node.json", "network.json"])
async def test_damaged_files_are_named(house: House, name: str) -> None:
    await house.stop()
    (house.path / name).write_bytes(b"\xff{")
    with pytest.raises(BadConfig, match=name.replace(".", r"\.")):
        await house.start()


async def test_one_process_for_each_directory(house: House) -> None:
    with house.directory.lock(), pytest.raises(BadConfig, match="in use"), house.directory.lock():
        pass
    with house.directory.lock():
        pass


# -- joining


def invite(house: House, **changes: object) -> Invite:
    fields: dict[str, object] = {
        "id": b"invite 1",
        "coordinator": COORDINATOR.id,
        "urls": ("http://127.0.0.1:1", house.coordinator.url),
        "role": "node",
        "secret": b"s" * 16,
        "uses": 10,
        "expires": 1 << 33,
    }
    return Invite(**fields | changes)  # type: ignore[arg-type]


def answering(house: House, secret: bytes = b"s" * 16, check: bool = True) -> None:
    def answer(call: Call, message: m.Join) -> m.Joined:
        assert call.caller is not None
        if check:
            check_proof(message.proof, secret, "join", call.caller, COORDINATOR.id, "node")
        return m.Joined(
            proof=proof(secret, "accept", call.caller, COORDINATOR.id, "node"),
            name="attic",
            urls=[house.coordinator.url],
            settings=SETTINGS,
            epoch=3,
            commit=9,
        )

    house.coordinator.answer_join = answer


async def test_joining_pins_the_coordinator(unmade_house: House) -> None:
    house = unmade_house
    await house.make()
    (house.path / "network.json").unlink()
    with pytest.raises(BadConfig, match="join"):
        await house.start()
    answering(house)
    http = house.client(house.directory.identity)
    await join(house.directory, invite(house), http=http, pool=house.pool)
    membership = Membership.load(house.path, files=OsFiles())
    assert (membership.coordinator, membership.epoch) == (COORDINATOR.id, (3, 9))
    assert membership.urls == [house.coordinator.url]
    facts = house.coordinator.joins[-1].node
    assert facts is not None
    assert (facts.name, facts.domain, facts.store.hex()) == ("attic", "house", house.directory.record.store_id)
    await house.start()
    await house.put(pack(VAULT.id, 100))


async def test_a_join_that_is_not_good_leaves_no_trace(unmade_house: House) -> None:
    house = unmade_house
    await house.make()
    (house.path / "network.json").unlink()
    http = house.client(house.directory.identity)
    answering(house)
    with pytest.raises(Denied):
        await join(house.directory, invite(house, secret=b"x" * 16), http=http, pool=house.pool)
    answering(house, secret=b"y" * 16, check=False)  # somebody who answers, but did not make the invite
    with pytest.raises(Denied):
        await join(house.directory, invite(house), http=http, pool=house.pool)
    with pytest.raises(BadConfig, match="invite"):
        await join(house.directory, invite(house, role="user"), http=http, pool=house.pool)
    with pytest.raises(Unavailable):
        await join(house.directory, invite(house, coordinator=STRANGER.id), http=http, pool=house.pool)
    with pytest.raises(Unavailable):
        await join(house.directory, invite(house, urls=("http://127.0.0.1:1",)), http=http, pool=house.pool)
    assert not (house.path / "network.json").exists()


async def test_a_ledger_that_cannot_write_makes_the_node_read_only(house: House) -> None:
    house.running.ledger._file.broken = "the ledger cannot be written"
    assert house.running.health() != "ok"
    assert house.running.heartbeat().read_only
    with contextlib.suppress(Exception):
        await house.put(pack(VAULT.id, 100))
    assert isinstance(house.running.ledger, Ledger)
    assert isinstance(house.running.identity, Identity)
    assert house.running.ledger.roots.count == 0
