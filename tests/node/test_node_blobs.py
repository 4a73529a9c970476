"""Blobs into a node and out again."""

from __future__ import annotations

import asyncio

import pytest
from tests.node.house import COORDINATOR, DEVICE, STRANGER, VAULT, House, identity, pack

from holdfast.blob import Digest
from holdfast.codec.pack_layout import PACK_BYTES_MAX
from holdfast.errors import BadRequest, Conflict, Corrupt, Denied, NotFound, RangeInvalid
from holdfast.inventory import inner_roots
from holdfast.node.settings import NodeSettings
from holdfast.wire import messages as m
from holdfast.wire import routes

SIZES = (64, 4096, 65536, 65537, 3 << 20)


def test_a_node_takes_the_largest_pack() -> None:
    assert NodeSettings().blob_bytes_max == PACK_BYTES_MAX


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_put_comes_back(house: House, size: int) -> None:
    data = pack(VAULT.id, size, size)
    await house.put(data)
    digest = Digest.of(data)
    assert await house.get(digest) == data
    assert await house.client().head_blob(house.target, digest, grant=house.certificate()) == size
    assert house.blob_path(digest).read_bytes() == data


@pytest.mark.parametrize("size", SIZES)
async def test_ranges(house: House, size: int) -> None:
    data = pack(VAULT.id, size, 1)
    await house.put(data)
    http, digest, proof = house.client(), Digest.of(data), house.certificate()
    for start, stop in ((0, 1), (size - 1, None), (5, min(size, 70_000)), (size // 2, size), (0, None)):
        async with http.get_blob(house.target, digest, (start, stop), grant=proof) as body:
            assert body.total == size
            assert b"".join([bytes(piece) async for piece in body]) == data[start:stop]
    with pytest.raises(RangeInvalid):
        await http.read_blob(house.target, digest, (size, None), size_max=size, grant=proof)


async def test_an_answer_says_what_it_is(house: House) -> None:
    data = pack(VAULT.id, 100_000)
    await house.put(data)
    status, headers, body = await house.raw(
        "GET", f"/v1/blobs/{Digest.of(data)}", grant=house.certificate(), headers={"range": "bytes=10-19"}
    )
    assert (status, body) == (206, data[10:20])
    assert headers["content-range"] == "bytes 10-19/100000"
    assert headers["repr-digest"].startswith("sha-256=:")
    assert headers["holdfast-node"] == "attic"


async def test_a_second_put_is_known_and_gets_a_new_sequence(house: House) -> None:
    for size in (4096, 1 << 20):
        data = pack(VAULT.id, size)
        digest = Digest.of(data)
        first, second = await house.put(data), await house.put(data)
        assert second.sequence > first.sequence
        assert await house.raw_put(data) == 200
        assert house.running.ledger.roots.count == len([name for name in house.kept() if name])
        assert await house.get(digest) == data


async def test_a_known_blob_does_not_use_up_the_budget(house: House) -> None:
    data = pack(VAULT.id, 4096)
    grant = house.grant(budget=4096)
    for _ in range(3):
        await house.put(data, grant)
    with pytest.raises(Denied):
        await house.put(pack(VAULT.id, 64, 1), grant)


async def test_puts_side_by_side(house: House) -> None:
    blobs = [pack(VAULT.id, 1000 + number, number) for number in range(40)]
    grant = house.grant()
    receipts = await asyncio.gather(*(house.put(data, grant) for data in [*blobs, *blobs[:10]]))
    sequences = [receipt.sequence for receipt in receipts]
    assert len(set(sequences)) == 50
    assert house.running.ledger.roots.count == 40
    assert house.running.ledger.sequence == max(sequences)


async def test_only_who_may_read_reads(house: House) -> None:
    data, digest = pack(VAULT.id, 5000), Digest.of(pack(VAULT.id, 5000))
    await house.put(data)
    missing = Digest.of(b"missing")
    other_vault = identity(9)
    refused = {
        "no credential": (None, DEVICE),
        "a stranger without a credential": (None, STRANGER),
        "somebody else's certificate": (house.certificate(), STRANGER),
        "a put grant": (house.grant(), DEVICE),
        "a certificate signed by the device's own coordinator": (house.certificate(countersigner=STRANGER), DEVICE),
        "no read right": (house.certificate(rights=2), DEVICE),
        "an expired certificate": (house.certificate(not_after=1), DEVICE),
        "a get grant for somebody else": (house.grant("get", digests=(digest,), subject=STRANGER.id), DEVICE),
        "an expired get grant": (house.grant("get", digests=(digest,), expires=1), DEVICE),
        "an old epoch": (house.grant("get", digests=(digest,), epoch=2), DEVICE),
    }
    for name, (grant, who) in refused.items():
        for asked in (digest, missing):  # a refusal does not tell whether a blob is here
            status, _, _ = await house.raw("GET", f"/v1/blobs/{asked}", grant=grant, who=who)
            assert status == 403, name
    unseen = {
        "another vault's device": house.certificate(vault=other_vault),
        "a get grant for another blob": house.grant("get", digests=(missing,)),
        "a get grant for another vault": house.grant("get", digests=(digest,), vault=other_vault.id),
    }
    for name, grant in unseen.items():
        for asked in (digest, Digest.of(b"also missing")):
            status, _, _ = await house.raw("GET", f"/v1/blobs/{asked}", grant=grant)
            assert status == 404, name
    assert await house.get(digest, house.grant("get", digests=(digest,))) == data
    reader = house.grant("get", digests=(digest,), subject=STRANGER.id)
    assert await house.get(digest, reader, STRANGER) == data
    assert (await house.raw("GET", f"/v1/blobs/{digest}", who=COORDINATOR))[2] == data


async def test_a_revoked_device_reads_no_more(house: House) -> None:
    data = pack(VAULT.id, 100)
    await house.put(data)
    proof = house.certificate(serial=17)
    assert await house.get(Digest.of(data), proof) == data
    house.coordinator.revocations, house.coordinator.revoked = 1, [17]
    await house.running.heart.unit()
    with pytest.raises(Denied, match="revoked"):
        await house.get(Digest.of(data), proof)
    assert await house.get(Digest.of(data), house.certificate(serial=18)) == data
    await house.stop()
    await house.start()
    with pytest.raises(Denied, match="revoked"):
        await house.get(Digest.of(data), proof)


@pytest.mark.parametrize("size", [4096, 100_000])
async def test_a_damaged_copy_is_never_kept_and_the_coordinator_hears(house: House, size: int) -> None:
    await house.running._scrub_worker.stop()  # it could be the first to find the damage
    data = pack(VAULT.id, size)
    receipt = await house.put(data)
    digest = Digest.of(data)
    await house.running.heart.unit()
    path = house.blob_path(digest)
    path.chmod(0o600)
    path.write_bytes(data[:-1] + b"!")
    proof = house.certificate()
    if size <= 65536:
        with pytest.raises(Corrupt, match="quarantined"):
            await house.get(digest, proof)
    else:
        answer = await house.client().call(house.target, routes.BLOB_VERIFY, path={"digest": str(digest)}, grant=proof)
        assert answer.state == "quarantined"
    with pytest.raises(NotFound):
        await house.get(digest, proof)
    assert house.running.ledger.sequence > receipt.sequence
    entry = await house.running.ledger.find(digest)
    assert entry is not None
    assert not entry.here
    async with asyncio.timeout(5):  # the loss has woken the heartbeat
        await house.coordinator.heard(lambda heartbeat: heartbeat.count == 0)
    again = await house.put(data)
    assert again.sequence > entry.sequence
    assert await house.get(digest, proof) == data


async def test_a_copy_of_the_wrong_length_is_quarantined_before_it_is_sent(house: House) -> None:
    data = pack(VAULT.id, 1 << 20)
    await house.put(data)
    path = house.blob_path(Digest.of(data))
    path.write_bytes(data[:-1])
    with pytest.raises(Corrupt):
        await house.get(Digest.of(data))
    assert not path.exists()


async def test_a_copy_that_vanished_is_noticed(house: House) -> None:
    for size in (4096, 1 << 20):
        data = pack(VAULT.id, size)
        await house.put(data)
        house.blob_path(Digest.of(data)).unlink()
        with pytest.raises(NotFound):
            await house.get(Digest.of(data))
        assert house.running.ledger.roots.count == 0


async def test_verify_says_what_it_found(house: House) -> None:
    data = pack(VAULT.id, 4096)
    await house.put(data)
    digest, proof = Digest.of(data), house.certificate()
    ask = house.client().call
    path = {"digest": str(digest)}
    assert (await ask(house.target, routes.BLOB_VERIFY, path=path, grant=proof)).state == "ok"
    entry = await house.running.ledger.find(digest)
    assert entry is not None
    assert entry.scrubbed is not None
    house.blob_path(digest).unlink()
    assert (await ask(house.target, routes.BLOB_VERIFY, path=path, grant=proof)).state == "missing"
    with pytest.raises(NotFound):
        await ask(house.target, routes.BLOB_VERIFY, path=path, grant=proof)


async def test_has_says_only_what_the_caller_may_read(house: House) -> None:
    mine, others = pack(VAULT.id, 100), pack(identity(9).id, 100)
    await house.put(mine)
    await house.put(others, house.grant(vault=identity(9).id))
    asked = [Digest.of(others), Digest.of(mine), Digest.of(b"missing"), Digest.of(mine)]

    async def has(grant: bytes | None, client_of: m.HasRequest, who: object = DEVICE) -> list[bool]:
        http = house.client(COORDINATOR if who is COORDINATOR else DEVICE)
        answer = await http.call(house.target, routes.HAS, client_of, grant=grant)
        return m.bits_of(answer.bitmap, len(client_of.digests))

    request = m.HasRequest(digests=asked)
    assert await has(house.certificate(), request) == [False, True, False, True]
    assert await has(house.certificate(vault=identity(9)), request) == [True, False, False, False]
    assert await has(None, request, COORDINATOR) == [True, True, False, True]
    with pytest.raises(Denied):
        await has(None, request)


async def test_delete_takes_only_the_copy_that_the_grant_names(house: House) -> None:
    data = pack(VAULT.id, 4096)
    digest = Digest.of(data)
    old = await house.put(data)
    new = await house.put(data)
    ask, path = house.client().call, {"digest": str(digest)}

    def allowed(sequence: int, kind: str = "delete", of: Digest = digest) -> bytes:
        return house.grant(kind, digests=(of,), sequence=sequence)

    with pytest.raises(Conflict):
        await ask(house.target, routes.BLOB_DELETE, path=path, grant=allowed(old.sequence))
    for wrong in (house.grant(), allowed(new.sequence, of=Digest.of(b"other")), house.certificate()):
        with pytest.raises((Denied, BadRequest)):
            await ask(house.target, routes.BLOB_DELETE, path=path, grant=wrong)
    assert await house.get(digest) == data
    for _ in range(2):  # again has no further effect
        await ask(house.target, routes.BLOB_DELETE, path=path, grant=allowed(new.sequence, "trim"))
    with pytest.raises(NotFound):
        await house.get(digest)
    entry = await house.running.ledger.find(digest)
    assert entry is not None
    assert entry.trashed is not None
    assert entry.sequence > new.sequence
    back = await house.put(data)  # out of trash again, or written anew
    assert back.sequence > entry.sequence
    with pytest.raises(Conflict):
        await ask(house.target, routes.BLOB_DELETE, path=path, grant=allowed(new.sequence))
    assert await house.get(digest) == data


async def test_inventory_is_read_onwards_and_by_prefix(house: House) -> None:
    blobs = [pack(VAULT.id, 100, number) for number in range(20)]
    for data in blobs:
        await house.put(data)
    digests = [Digest.of(data) for data in blobs]
    house.blob_path(digests[0]).unlink()
    with pytest.raises(NotFound):
        await house.get(digests[0])
    http = house.client(COORDINATOR)
    seen: list[m.InventoryEntry] = []
    after = 0
    while True:
        page = await http.call(house.target, routes.INVENTORY, m.InventoryQuery(after=after, limit=7))
        seen += page.entries
        if not page.entries:
            break
        after = page.entries[-1].sequence
    assert [entry.digest for entry in seen] == [*digests[1:], digests[0]]
    assert [entry.here for entry in seen] == [True] * 19 + [False]
    assert all(entry.vault == VAULT.id and entry.size == 100 for entry in seen)
    assert page.count == 19
    assert page.sequence == seen[-1].sequence
    assert page.root == house.running.ledger.roots.root
    first = await http.call(house.target, routes.INVENTORY, m.InventoryQuery(limit=1))
    assert first.prefixes == house.running.ledger.roots.prefixes()
    prefix = digests[5][0]
    page = await http.call(house.target, routes.INVENTORY, m.InventoryQuery(prefix=f"{prefix:02x}"))
    assert {entry.digest for entry in page.entries} == {d for d in digests[1:] if d[0] == prefix}
    wanted = sorted(digests[1:])
    text = ".".join(sorted({digest[:2].hex() for digest in wanted}))
    page = await http.call(house.target, routes.INVENTORY, m.InventoryQuery(prefix=text, limit=7))
    assert [entry.digest for entry in page.entries] == wanted[:7]
    page = await http.call(house.target, routes.INVENTORY, m.InventoryQuery(prefix=text, past=wanted[6]))
    assert [entry.digest for entry in page.entries] == wanted[7:]
    page = await http.call(house.target, routes.INVENTORY, m.InventoryQuery(inner=f"{prefix:02x}.ff"))
    assert page.inner == inner_roots(d for d in wanted if d[0] == prefix) + inner_roots(
        d for d in wanted if d[0] == 0xFF
    )
    for bad in ("0", "0g", "01.01", "02.01", "01.0102", "010203"):
        with pytest.raises(BadRequest):
            await http.call(house.target, routes.INVENTORY, m.InventoryQuery(prefix=bad))
    with pytest.raises(Denied):
        await house.client().call(house.target, routes.INVENTORY, m.InventoryQuery(), grant=house.certificate())


async def test_info_has_no_paths(house: House) -> None:
    await house.put(pack(VAULT.id, 4096))
    answer = await house.client().call(house.target, routes.INFO, grant=house.certificate())
    assert (answer.name, answer.space.used, answer.blobs) == ("attic", 4096, 1)
    assert str(house.path) not in str(answer)
    with pytest.raises(Denied):
        await house.client(STRANGER).call(house.target, routes.INFO)
