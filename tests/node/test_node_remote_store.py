"""A node seen as a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.node.house import COORDINATOR, DEVICE, STRANGER, VAULT, House, pack

from holdfast.auth.identity import Identity
from holdfast.blob import Buffer, Digest, pieces
from holdfast.errors import Denied, DigestMismatch, NotFound, RangeInvalid
from holdfast.stores.protocol import Info, Range, get_bytes, put_bytes
from holdfast.stores.remote import RemoteStore


def remote(house: House, who: Identity = DEVICE, *, reads: bool = True) -> RemoteStore:
    async def read_grant(digests: Sequence[Digest]) -> bytes | None:
        return house.certificate() if reads else None

    async def put_grant(digest: Digest, size: int) -> bytes:
        return house.grant(subject=who.id)

    return RemoteStore(house.target, http=house.client(who), read_grant=read_grant, put_grant=put_grant)


@pytest.mark.parametrize("size", [64, 4096, 70_000, 3 << 20])
async def test_round_trip(house: House, size: int) -> None:
    store, data = remote(house), pack(VAULT.id, size)
    digest = Digest.of(data)
    assert await store.stat([digest]) == [None]
    assert await put_bytes(store, data) == (digest, size, True)
    assert await put_bytes(store, data) == (digest, size, False)
    assert await get_bytes(store, digest) == data
    assert await get_bytes(store, digest, Range(10, 20)) == data[10:20]
    assert await get_bytes(store, digest, Range(60, None)) == data[60:]
    async with store.get(digest, Range(1, 5)) as body:
        assert (body.size, body.total) == (4, size)
    with pytest.raises(RangeInvalid):
        await get_bytes(store, digest, Range(size, None))


async def test_stat_in_the_order_asked(house: House) -> None:
    store = remote(house)
    blobs = [pack(VAULT.id, 100 + number, number) for number in range(20)]
    for data in blobs:
        await house.put(data)
    missing = Digest.of(b"missing")
    asked = [missing, *(Digest.of(data) for data in blobs), missing, Digest.of(blobs[3])]
    expected = [None, *(Info(Digest.of(data), len(data)) for data in blobs), None, Info(Digest.of(blobs[3]), 103)]
    assert await store.stat(asked) == expected
    assert await store.stat([]) == []


async def test_a_put_again_gives_a_new_sequence(house: House) -> None:
    store, data = remote(house), pack(VAULT.id, 5000)
    first = await store.receive(Digest.of(data), len(data), pieces(data))
    second = await store.receive(Digest.of(data), len(data), pieces(data))
    assert second.sequence > first.sequence


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_source_that_is_not_what_was_announced(house: House, size: int) -> None:
    store, data = remote(house), pack(VAULT.id, size)
    for wrong in (data[:-1], data + b"x"):
        with pytest.raises(DigestMismatch):
            await store.put(Digest.of(data), size, pieces(wrong))
    with pytest.raises(DigestMismatch):
        await store.put(Digest.of(b"another name"), size, pieces(data))

    class Breaks(Exception):
        pass

    async def source() -> AsyncIterator[Buffer]:
        yield data[: size // 2]
        raise Breaks

    with pytest.raises(Breaks):
        await store.put(Digest.of(data), size, source())
    assert await store.stat([Digest.of(data)]) == [None]
    async with asyncio.timeout(10):
        while house.kept():  # noqa: ASYNC110 - the node tidies up once it notices that the client has gone
            await asyncio.sleep(0.01)


async def test_who_may_only_put(house: House) -> None:
    store, data = remote(house, STRANGER, reads=False), pack(VAULT.id, 5000)
    assert (await put_bytes(store, data)).new
    with pytest.raises(Denied):
        await get_bytes(store, Digest.of(data))


async def test_nothing_is_deleted_through_a_store(house: House) -> None:
    store, data = remote(house), pack(VAULT.id, 5000)
    await put_bytes(store, data)
    with pytest.raises(Denied):
        await store.delete([Digest.of(data)])
    with pytest.raises(NotFound):
        await get_bytes(store, Digest.of(b"missing"))
    await store.close()
    assert await get_bytes(store, Digest.of(data)) == data


async def test_the_coordinator_lists(house: House) -> None:
    blobs = [pack(VAULT.id, 100 + number, number) for number in range(12)]
    for data in blobs:
        await house.put(data)
    store = remote(house, COORDINATOR, reads=False)
    expected = sorted(Info(Digest.of(data), len(data)) for data in blobs)
    assert await store.list(None, 1000) == expected
    assert await store.list(expected[4].digest, 3) == expected[5:8]
    assert await store.list(expected[-1].digest, 10) == []
    with pytest.raises(Denied):
        await remote(house).list(None, 10)
