"""Everything that is wrong with a put is refused, and nothing of it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from tests.node.house import COORDINATOR, DEVICE, STRANGER, VAULT, House, identity, pack

from holdfast.auth.documents import canonical, open_signed, sign
from holdfast.auth.grants import Grant
from holdfast.blob import Digest
from holdfast.errors import BadRequest, Denied, DigestMismatch, HoldfastError, NoSpace, StorePoisoned
from holdfast.node.settings import NodeSettings

DATA = pack(VAULT.id, 4096)
LARGE = pack(VAULT.id, 300_000)


async def refused(house: House, data: bytes, grant: bytes) -> HoldfastError:
    """The error of a put, after which nothing was kept and the ledger knows nothing."""
    with pytest.raises(HoldfastError) as caught:
        await house.put(data, grant)
    assert house.kept() == []
    assert house.running.ledger.roots.count == 0
    return caught.value


async def test_a_grant_for_another_node_is_refused(house: House) -> None:
    error = await refused(house, DATA, house.grant(node=identity(8).id))
    assert isinstance(error, Denied)


WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "another store": {"store": bytes(16)},
    "another vault": {"vault": identity(8).id},
    "somebody else": {"subject": STRANGER.id},
    "an old epoch": {"epoch": 2},
    "expired": {"expires": 1},
    "for too long": {"expires": 1 << 40},
    "a get grant": {"kind": "get"},
    "a get grant with a budget": {"kind": "get", "budget": 1 << 20},
    "a delete grant": {"kind": "delete"},
    "no budget": {"budget": 0},
    "too small a budget": {"budget": 4095},
    "signed by a stranger": {"signer": STRANGER},
    "signed by its subject": {"signer": DEVICE},
}


@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", WRONG_FIELDS)
async def test_a_wrong_grant_is_refused(house: House, name: str, data: bytes) -> None:
    error = await refused(house, data, house.grant(**WRONG_FIELDS[name]))
    assert isinstance(error, BadRequest if name == "another vault" else Denied)


def altered(envelope: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The grant with other fields under the old signature."""
    body, signature = cbor2.loads(envelope)
    kind, version, fields = cbor2.loads(body)
    change(fields)
    return canonical([canonical([kind, version, fields]), signature])


ALTERED: dict[str, Any] = {
    "kind": "get",
    "node": identity(8).id,
    "store": bytes(16),
    "vault": identity(8).id,
    "subject": STRANGER.id,
    "digests": [bytes(32)],
    "budget": 1 << 40,
    "sequence": 5,
    "epoch": 4,
    "commit": 8,
    "expires": 1 << 33,
    "unknown": 1,
}


def test_every_field_of_a_grant_is_in_the_table() -> None:
    assert set(ALTERED) == {*Grant.__struct_fields__, "unknown"}


@pytest.mark.parametrize("field", ALTERED)
async def test_a_grant_altered_in_any_field_is_refused(house: House, field: str) -> None:
    value = ALTERED[field]
    if isinstance(value, bytes):
        value = bytes(value)
    forged = altered(house.grant(), lambda fields: fields.__setitem__(field, value))
    assert isinstance(await refused(house, DATA, forged), Denied | BadRequest)
    missing = altered(house.grant(), lambda fields: fields.pop(field, None) if field != "unknown" else fields.clear())
    assert isinstance(await refused(house, DATA, missing), Denied | BadRequest)


async def test_a_grant_with_any_bit_flipped_is_refused(house: House) -> None:
    good = house.grant()
    for position in range(0, len(good) * 8, 37):
        forged = bytearray(good)
        forged[position >> 3] ^= 1 << (position & 7)
        assert isinstance(await refused(house, DATA, bytes(forged)), Denied | BadRequest)


async def test_no_grant_and_no_document(house: House) -> None:
    for grant in (None, b"\x80", b"\x82\x40\x40", b"garbage", bytes(12_000)):
        assert await house.raw_put(DATA, grant=grant) in (400, 403)
    assert await house.raw_put(DATA, grant=house.certificate()) in (400, 403)
    assert house.kept() == []


async def test_a_budget_is_not_overrun_by_puts_side_by_side(house: House) -> None:
    grant = house.grant(budget=10 * 4096)
    blobs = [pack(VAULT.id, 4096, number) for number in range(30)]
    results = await asyncio.gather(*(house.put(data, grant) for data in blobs), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 10
    assert all(isinstance(result, Denied) for result in results if isinstance(result, BaseException))
    assert house.running.ledger.roots.count == 10


async def test_a_failed_put_gives_its_budget_back(house: House) -> None:
    grant = house.grant(budget=4096)
    for _ in range(3):
        assert await house.raw_put(DATA, body=DATA[:-1] + b"!", grant=grant) == 400
    await house.put(DATA, grant)


async def test_a_grant_of_a_newer_epoch_ends_the_older(house: House) -> None:
    await house.put(DATA, house.grant(epoch=4, commit=1))
    assert house.running.membership.epoch == (4, 1)
    with pytest.raises(Denied, match="epoch"):
        await house.put(LARGE, house.grant(epoch=3, commit=900))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/blobs/xyz",
        "/v1/blobs/" + "0" * 63,
        "/v1/blobs/" + "0" * 65,
        "/v1/blobs/" + "G" * 64,
        "/v1/blobs/" + str(Digest.of(DATA)).upper(),
        "/v1/blobs/..%2f..%2fetc%2fpasswd",
        "/v1/blobs/%2e%2e",
        "/v1/blobs/" + str(Digest.of(DATA)) + "%00",
    ],
)
async def test_a_name_that_is_no_digest(house: House, path: str) -> None:
    assert await house.raw_put(DATA, path=path) == 400
    assert (await house.raw("GET", path, grant=house.certificate()))[0] == 400
    assert house.kept() == []


@pytest.mark.parametrize("path", ["/v1/blobs/../../identity.key", "/v1/blobs/", "/v1/blobs", "/etc/passwd", "//"])
async def test_paths_that_lead_elsewhere(house: House, path: str) -> None:
    status, _, body = await house.raw("GET", path, grant=house.certificate())
    assert status in (400, 401, 404)
    assert house.directory.identity.seed().hex().encode() not in body


async def test_lengths(house: House) -> None:
    def without_length(headers: dict[str, str]) -> None:
        del headers["content-length"]

    assert await house.raw_put(DATA, then=without_length, body=b"") in (401, 411)
    chunked = {"transfer-encoding": "chunked"}
    digest = Digest.of(DATA)
    status, _, _ = await house.raw(
        "PUT", f"/v1/blobs/{digest}", headers=chunked, body=b"0\r\n\r\n", grant=house.grant()
    )
    assert status == 411
    for length in ("-1", "1e3", "4096, 4096", "0x10", "9" * 30):
        with_length = {"content-length": length}
        assert await house.raw_put(DATA, headers=with_length) in (400, 413)
    assert house.kept() == []


async def test_a_body_that_is_not_its_digest(house: House) -> None:
    for data in (DATA, LARGE):
        assert await house.raw_put(data, body=data[:-1] + b"!") == 400
    other = {"content-digest": "sha-256=:" + "A" * 43 + "=:"}
    assert await house.raw_put(DATA, headers=other) == 400
    assert house.kept() == []


async def test_a_body_that_ends_early_leaves_nothing(house: House) -> None:
    for data in (DATA, LARGE):
        digest = Digest.of(data)
        with pytest.raises((asyncio.IncompleteReadError, TimeoutError)):
            async with asyncio.timeout(0.3):
                await house.raw_put(data, body=data[: len(data) // 2])
        with pytest.raises(HoldfastError):
            await house.get(digest)
    await house.stop()
    assert house.kept() == []
    await house.start()
    assert house.running.ledger.roots.count == 0


async def test_too_large(unmade_house: House) -> None:
    house = unmade_house
    house.settings = NodeSettings(blob_bytes_max=4095)
    await house.make()
    await house.start()
    assert await house.raw_put(DATA) == 413
    assert house.kept() == []


async def test_blobs_that_are_no_packs_of_the_vault(house: House) -> None:
    for data in (b"", b"x", pack(VAULT.id, 4096)[:63], b"\0" * 4096, b"\0" * 100_000, pack(identity(8).id, 4096)):
        assert isinstance(await refused(house, data, house.grant()), BadRequest)


async def test_a_known_blob_of_another_vault_is_refused(house: House) -> None:
    await house.put(DATA)
    other = house.grant(vault=identity(8).id)
    for data in (DATA, LARGE):
        receipt = await house.put(data)
        with pytest.raises(BadRequest):
            await house.put(data, other)
        entry = await house.running.ledger.find(Digest.of(data))
        assert entry is not None
        assert (entry.sequence, entry.vault) == (receipt.sequence, VAULT.id)


@pytest.mark.parametrize("size", [4096, 300_000], ids=["small", "large"])
async def test_a_header_that_lies_takes_no_known_blob_over(house: House, size: int) -> None:
    thief, data = identity(8), pack(VAULT.id, size)
    receipt = await house.put(data)
    forged = pack(thief.id, size)
    with pytest.raises(HoldfastError) as caught:
        await house.client().put_blob(house.target, Digest.of(data), size, forged, grant=house.grant(vault=thief.id))
    assert isinstance(caught.value, DigestMismatch | BadRequest)
    entry = await house.running.ledger.find(Digest.of(data))
    assert entry is not None
    assert (entry.sequence, entry.vault) == (receipt.sequence, VAULT.id)


async def test_a_request_for_another_receiver_or_from_a_wrong_signer(house: House) -> None:
    assert await house.raw_put(DATA, receiver=identity(8).id) == 401
    assert await house.raw_put(DATA, who=STRANGER) == 403

    def other_path(headers: dict[str, str]) -> None:
        headers["holdfast-grant"] += "A"

    assert await house.raw_put(DATA, then=other_path) in (400, 401)
    status, _, _ = await house.raw("GET", f"/v1/blobs/{Digest.of(DATA)}", then=lambda headers: headers.clear())
    assert status in (400, 401)
    assert house.kept() == []


async def test_a_full_store_says_so_before_the_body(unmade_house: House) -> None:
    house = unmade_house
    house.capacity = 200_000
    await house.make()
    await house.start()
    await house.put(DATA)
    # Only the header is sent: the answer does not wait for the body.
    assert await house.raw_put(LARGE, body=b"", headers={"expect": "100-continue"}) == 507
    with pytest.raises(NoSpace):
        await house.put(LARGE)
    await house.put(DATA)  # what is there already needs no space
    assert len(house.kept()) == 1


async def test_a_poisoned_store_reads_but_takes_nothing(house: House) -> None:
    await house.put(DATA)
    house.running.store._changes.health.poison("a sync failed")  # type: ignore[attr-defined]
    assert await house.raw_put(LARGE, body=b"", headers={"expect": "100-continue"}) == 503
    with pytest.raises(StorePoisoned):
        await house.put(pack(VAULT.id, 100, 1))
    assert await house.get(Digest.of(DATA)) == DATA
    assert "read-only" in house.running.health()
    assert house.running.heartbeat().read_only


async def test_a_read_only_node(unmade_house: House) -> None:
    house = unmade_house
    house.settings = NodeSettings(read_only=True)
    await house.make()
    await house.start()
    with pytest.raises(StorePoisoned, match="read-only"):
        await house.put(DATA)
    assert house.kept() == []


async def test_a_grant_reused_by_its_hash_is_still_compared(house: House) -> None:
    grant = house.grant()
    await house.put(DATA, grant)
    assert await house.raw_put(LARGE, grant=grant, who=STRANGER) == 403
    forged = sign(Grant(**{name: getattr(_opened(grant), name) for name in Grant.__struct_fields__}), STRANGER)
    assert await house.raw_put(LARGE, grant=forged) == 403
    assert len(house.kept()) == 1


def _opened(envelope: bytes) -> Grant:
    return open_signed(Grant, envelope, COORDINATOR.id)


async def test_an_epoch_heard_in_a_grant_is_remembered(house: House) -> None:
    house.coordinator.epoch = (4, 1)
    await house.put(DATA, house.grant(epoch=4, commit=1))
    await house.running.heart.unit()
    await house.crash()
    await house.start()
    with pytest.raises(Denied, match="epoch"):
        await house.put(LARGE, house.grant(epoch=3))
